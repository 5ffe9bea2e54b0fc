import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;

/**
 * The score of two photos and where it comes from, by ONNX Runtime's Java API.
 *
 * <pre>mvn -q compile exec:java -Dexec.args="pair.onnx a.ppm b.ppm"</pre>
 */
public final class Pair {
    /** Pixels are RGB, row by row. */
    record Photo(int height, int width, byte[] pixels) {
        /** uint8 (1, height, width, 3). */
        OnnxTensor tensor(OrtEnvironment environment) throws OrtException {
            ByteBuffer bytes = ByteBuffer.allocateDirect(pixels.length).put(pixels).rewind();
            return OnnxTensor.createTensor(
                    environment, bytes, new long[] {1, height, width, 3}, OnnxJavaType.UINT8);
        }
    }

    public static void main(String[] arguments) {
        if (arguments.length != 3) {
            System.err.println("usage: pair pair.onnx a.ppm b.ppm");
            System.exit(2);
        }
        try {
            run(arguments[0], readPpm(Path.of(arguments[1])), readPpm(Path.of(arguments[2])));
        } catch (IOException | OrtException error) {
            System.err.println("pair: " + error.getMessage());
            System.exit(1);
        }
    }

    private static void run(String model, Photo first, Photo second) throws OrtException {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(1);
            try (OrtSession session = environment.createSession(model, options);
                    OnnxTensor a = first.tensor(environment);
                    OnnxTensor b = second.tensor(environment);
                    OrtSession.Result results = session.run(Map.of("a", a, "b", b))) {
                for (String name : new String[] {"score", "residual_a", "residual_b"}) {
                    float[] values = (float[]) results.get(name).orElseThrow().getValue();
                    System.out.printf(Locale.ROOT, "%s %.6f%n", name, values[0]);
                }
                for (String name : new String[] {"map_a", "map_b"}) {
                    float[][][] maps = (float[][][]) results.get(name).orElseThrow().getValue();
                    printMap(name, maps[0]);
                }
            }
        }
    }

    private static void printMap(String name, float[][] map) {
        System.out.printf("%s %d x %d%n", name, map.length, map[0].length);
        for (float[] row : map) {
            StringBuilder line = new StringBuilder();
            for (float value : row) {
                line.append(line.isEmpty() ? "" : " ").append(String.format(Locale.ROOT, "%.6f", value));
            }
            System.out.println(line);
        }
    }

    /** A binary PPM file with 8 bits a channel. */
    private static Photo readPpm(Path path) throws IOException {
        byte[] data = Files.readAllBytes(path);
        String[] words = new String[4];
        int at = 0;
        for (int word = 0; word < words.length; word++) {
            while (at < data.length && (Character.isWhitespace(data[at]) || data[at] == '#')) {
                if (data[at] == '#') {
                    while (at < data.length && data[at] != '\n') {
                        at++;
                    }
                } else {
                    at++;
                }
            }
            int start = at;
            while (at < data.length && !Character.isWhitespace(data[at])) {
                at++;
            }
            words[word] = new String(data, start, at - start, StandardCharsets.US_ASCII);
        }
        if (!words[0].equals("P6") || !words[3].equals("255")) {
            throw new IOException(path + ": is not a binary PPM file with 8 bits a channel");
        }
        int width = Integer.parseInt(words[1]);
        int height = Integer.parseInt(words[2]);
        byte[] pixels = new byte[height * width * 3];
        if (data.length - at - 1 < pixels.length) {
            throw new IOException(path + ": ends too early");
        }
        System.arraycopy(data, at + 1, pixels, 0, pixels.length);
        return new Photo(height, width, pixels);
    }
}
