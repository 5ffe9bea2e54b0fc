// The score of two photos and where it comes from, by ONNX Runtime's C# API.
//
//   dotnet run -- pair.onnx a.ppm b.ppm

using System.Globalization;
using System.Text;
using Microsoft.ML.OnnxRuntime;

if (args.Length != 3)
{
    Console.Error.WriteLine("usage: pair pair.onnx a.ppm b.ppm");
    return 2;
}
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
try
{
    using var options = new SessionOptions { IntraOpNumThreads = 1 };
    using var session = new InferenceSession(args[0], options);
    using var a = Tensor(ReadPpm(args[1]));
    using var b = Tensor(ReadPpm(args[2]));
    string[] outputs = ["score", "residual_a", "residual_b", "map_a", "map_b"];
    using var run = new RunOptions();
    using var results = session.Run(run, ["a", "b"], [a, b], outputs);
    for (var at = 0; at < 3; at++)
        Console.WriteLine($"{outputs[at]} {results[at].GetTensorDataAsSpan<float>()[0]:F6}");
    PrintMap("map_a", results[3]);
    PrintMap("map_b", results[4]);
    return 0;
}
catch (Exception error) when (error is OnnxRuntimeException or IOException or InvalidDataException)
{
    Console.Error.WriteLine($"pair: {error.Message}");
    return 1;
}

// uint8 (1, height, width, 3).
static OrtValue Tensor(Photo photo) =>
    OrtValue.CreateTensorValueFromMemory(photo.Pixels, [1, photo.Height, photo.Width, 3]);

static void PrintMap(string name, OrtValue map)
{
    var shape = map.GetTensorTypeAndShape().Shape; // (1, H, W)
    var values = map.GetTensorDataAsSpan<float>();
    Console.WriteLine($"{name} {shape[1]} x {shape[2]}");
    var width = (int)shape[2];
    for (var y = 0; y < shape[1]; y++)
    {
        var row = values.Slice(y * width, width).ToArray();
        Console.WriteLine(string.Join(' ', row.Select(value => value.ToString("F6"))));
    }
}

// A binary PPM file with 8 bits a channel.
static Photo ReadPpm(string path)
{
    var data = File.ReadAllBytes(path);
    var at = 0;
    string Word()
    {
        while (at < data.Length && (char.IsWhiteSpace((char)data[at]) || data[at] == '#'))
        {
            if (data[at] == '#')
                while (at < data.Length && data[at] != '\n') at++;
            else
                at++;
        }
        var start = at;
        while (at < data.Length && !char.IsWhiteSpace((char)data[at])) at++;
        return Encoding.ASCII.GetString(data, start, at - start);
    }
    var (magic, width, height, most) = (Word(), Word(), Word(), Word());
    if (magic != "P6" || most != "255" || !int.TryParse(width, out var w) || !int.TryParse(height, out var h))
        throw new InvalidDataException($"{path}: is not a binary PPM file with 8 bits a channel");
    at++;
    if (data.Length - at < h * w * 3)
        throw new InvalidDataException($"{path}: ends too early");
    return new Photo(h, w, data[at..(at + h * w * 3)]);
}

// Pixels are RGB, row by row.
record Photo(int Height, int Width, byte[] Pixels);
