// The score of two photos and where it comes from, by ONNX Runtime's C++ API.
//
// ORT is an unpacked release of ONNX Runtime for C++ (onnxruntime-linux-x64-VERSION.tgz):
//
//   g++ -std=c++17 -O2 pair.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o pair
//   ./pair pair.onnx a.ppm b.ppm

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

struct Photo {
    int64_t height, width;
    std::vector<uint8_t> pixels;  // RGB, row by row
};

// A binary PPM file with 8 bits a channel.
Photo read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int64_t width = 0, height = 0, most = 0;
    file >> magic;
    for (int64_t* number : {&width, &height, &most}) {
        while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
        file >> *number;
    }
    file.get();
    if (!file || magic != "P6" || most != 255 || width < 1 || height < 1)
        throw std::runtime_error(path + ": is not a binary PPM file with 8 bits a channel");
    Photo photo{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
    file.read(reinterpret_cast<char*>(photo.pixels.data()), static_cast<std::streamsize>(photo.pixels.size()));
    if (!file) throw std::runtime_error(path + ": ends too early");
    return photo;
}

// A view on the photo's pixels: uint8 (1, height, width, 3).
Ort::Value tensor(Photo& photo) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::array<int64_t, 4> shape{1, photo.height, photo.width, 3};
    return Ort::Value::CreateTensor<uint8_t>(memory, photo.pixels.data(), photo.pixels.size(), shape.data(),
                                             shape.size());
}

void print_map(const char* name, const Ort::Value& map) {
    const auto shape = map.GetTensorTypeAndShapeInfo().GetShape();  // (1, H, W)
    const float* value = map.GetTensorData<float>();
    std::printf("%s %lld x %lld\n", name, static_cast<long long>(shape[1]), static_cast<long long>(shape[2]));
    for (int64_t y = 0; y < shape[1]; ++y)
        for (int64_t x = 0; x < shape[2]; ++x) std::printf("%.6f%c", *value++, x + 1 < shape[2] ? ' ' : '\n');
}

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: pair pair.onnx a.ppm b.ppm\n");
        return 2;
    }
    try {
        Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "pair");
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1);
        Ort::Session session(environment, arguments[1], options);
        Photo a = read_ppm(arguments[2]), b = read_ppm(arguments[3]);
        const std::array<const char*, 2> inputs{"a", "b"};
        const std::array<const char*, 5> outputs{"score", "residual_a", "residual_b", "map_a", "map_b"};
        const std::array<Ort::Value, 2> photos{tensor(a), tensor(b)};
        const auto results = session.Run(Ort::RunOptions{}, inputs.data(), photos.data(), inputs.size(),
                                         outputs.data(), outputs.size());
        for (size_t at = 0; at < 3; ++at)
            std::printf("%s %.6f\n", outputs[at], *results[at].GetTensorData<float>());
        print_map("map_a", results[3]);
        print_map("map_b", results[4]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "pair: %s\n", error.what());
        return 1;
    }
}
