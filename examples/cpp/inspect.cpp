// Verdicts of an exported or baked model with OpenVINO alone: inspect MODEL.xml OUT_DIR IMAGE...
//
// Prints a line for each image: its path, good or defective, and the score. Writes the anomaly map, 32-bit floats, as
// OUT_DIR/NAME.pfm and the mask as OUT_DIR/NAME.pgm, both at the size of the network input. Images are 8-bit PNG or
// binary PPM, upright, of any size: resizing, references and thresholds are inside the file.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

#ifdef WITH_PNG
#include <png.h>
#endif

namespace fs = std::filesystem;

struct Image {  // rows from the top, red, green and blue of a pixel side by side
    std::size_t height, width;
    std::vector<std::uint8_t> rgb;
};

// The next number in the header of a PPM file, where # begins a comment.
static std::size_t number(std::istream& file) {
    while ((file >> std::ws).peek() == '#') file.ignore(1 << 20, '\n');
    std::size_t value = 0;
    file >> value;
    return value;
}

static Image read_ppm(std::istream& file, const fs::path& path) {
    file.ignore(2);
    const std::size_t width = number(file), height = number(file), largest = number(file);
    if (!file || largest != 255 || width == 0 || height == 0 || width > 65535 || height > 65535)
        throw std::runtime_error("found another header in " + path.string() + ", expected a PPM image of 8 bits");
    file.ignore(1);
    Image image{height, width, std::vector<std::uint8_t>(height * width * 3)};
    if (!file.read(reinterpret_cast<char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size())))
        throw std::runtime_error("found the beginning of an image alone in " + path.string() + ", expected all of it");
    return image;
}

#ifdef WITH_PNG
static Image read_png(const fs::path& path) {
    png_image header{};
    header.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_file(&header, path.string().c_str()))
        throw std::runtime_error("found no PNG image in " + path.string() + " (" + header.message + ")");
    header.format = PNG_FORMAT_RGB;
    Image image{header.height, header.width, std::vector<std::uint8_t>(PNG_IMAGE_SIZE(header))};
    const png_color black{0, 0, 0};  // below what is transparent
    if (!png_image_finish_read(&header, &black, image.rgb.data(), 0, nullptr))
        throw std::runtime_error("found a damaged PNG image in " + path.string() + " (" + header.message + ")");
    return image;
}
#endif

static Image read_image(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    char begin[2] = {};
    if (!file.read(begin, 2)) throw std::runtime_error("found no image to read at " + path.string());
    file.seekg(0);
    if (std::memcmp(begin, "P6", 2) == 0) return read_ppm(file, path);
#ifdef WITH_PNG
    return read_png(path);
#else
    throw std::runtime_error("found " + path.string() + ", expected PPM: this program was built without libpng");
#endif
}

// The image as the model takes it: (1, 3, height, width), between 0 and 1.
static ov::Tensor as_input(const Image& image) {
    ov::Tensor tensor(ov::element::f32, {1, 3, image.height, image.width});
    float* values = tensor.data<float>();
    const std::size_t pixels = image.height * image.width;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
        for (std::size_t channel = 0; channel < 3; ++channel)
            values[channel * pixels + pixel] = static_cast<float>(image.rgb[3 * pixel + channel]) / 255.0f;
    return tensor;
}

// PFM: 32-bit floats, the lowest row first; -1 says that the lowest byte comes first, as on every x86 and ARM.
static void write_map(const fs::path& path, const float* values, std::size_t height, std::size_t width) {
    std::ofstream file(path, std::ios::binary);
    file << "Pf\n" << width << ' ' << height << "\n-1.0\n";
    for (std::size_t row = height; row-- > 0;)
        file.write(reinterpret_cast<const char*>(values + row * width), static_cast<std::streamsize>(4 * width));
    if (!file.flush()) throw std::runtime_error("found no way to write " + path.string());
}

static void write_mask(const fs::path& path, const bool* values, std::size_t height, std::size_t width) {
    std::vector<char> bytes(height * width);
    std::transform(values, values + bytes.size(), bytes.begin(), [](bool marked) { return marked ? '\xff' : '\0'; });
    std::ofstream file(path, std::ios::binary);
    file << "P5\n" << width << ' ' << height << "\n255\n";
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) throw std::runtime_error("found no way to write " + path.string());
}

// A model that was exported without thresholds has neither label nor mask.
static bool has_output(ov::InferRequest& request, const std::string& name) {
    const auto outputs = request.get_compiled_model().outputs();
    return std::any_of(outputs.begin(), outputs.end(),
                       [&](const auto& output) { return output.get_names().count(name) > 0; });
}

static void inspect(ov::InferRequest& request, const fs::path& path, const fs::path& out) {
    request.set_input_tensor(as_input(read_image(path)));
    request.infer();
    const float score = request.get_tensor("pred_score").data<float>()[0];
    const ov::Tensor map = request.get_tensor("anomaly_map");
    const ov::Shape shape = map.get_shape();  // (1, 1, height, width)
    write_map(out / path.stem().concat(".pfm"), map.data<float>(), shape[2], shape[3]);
    std::string verdict = "no threshold";
    if (has_output(request, "pred_label")) {
        verdict = request.get_tensor("pred_label").data<bool>()[0] ? "defective" : "good";
        const ov::Tensor mask = request.get_tensor("pred_mask");
        write_mask(out / path.stem().concat(".pgm"), mask.data<bool>(), shape[2], shape[3]);
    }
    std::cout << path.string() << '\t' << verdict << '\t' << score << '\n';
}

int main(int count, char** arguments) try {
    if (count < 4) {
        std::cerr << "usage: inspect MODEL.xml OUT_DIR IMAGE...\n";
        return 2;
    }
    ov::Core core;
    // Without this hint some processors compute in 16 bits.
    ov::CompiledModel model = core.compile_model(arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = model.create_infer_request();
    fs::create_directories(arguments[2]);
    std::cout << std::setprecision(9);
    int status = 0;
    for (int place = 3; place < count; ++place) try {
            inspect(request, arguments[place], arguments[2]);
        } catch (const std::exception& error) {  // one image costs no other
            std::cerr << "inspect: " << error.what() << '\n';
            status = 3;
        }
    return status;
} catch (const std::exception& error) {
    std::cerr << "inspect: " << error.what() << '\n';
    return 2;
}
