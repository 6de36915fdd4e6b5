"""Camera messages become pixels, whatever their encoding; what is wrong with one is named by its cause."""

import array
import struct
import sys
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from transkd_ros.frames import (
    CAUSES,
    ENCODINGS,
    MAX_SIDE,
    FrameError,
    SampleBits,
    _cv_bridge,
    decode,
    decode_compressed,
    decode_image,
    image_message,
)

RED = (255, 0, 0)
# What a camera sends for (R, G, B), pixel by pixel.
LAYOUTS = {
    "rgb8": lambda r, g, b: (r, g, b),
    "bgr8": lambda r, g, b: (b, g, r),
    "8UC3": lambda r, g, b: (b, g, r),
    "rgba8": lambda r, g, b: (r, g, b, 99),
    "bgra8": lambda r, g, b: (b, g, r, 99),
    "8UC4": lambda r, g, b: (b, g, r, 99),
}

# What Python, rclpy and rosbags hold a message's bytes in.
CONTAINERS = [bytes, lambda data: array.array("B", data), lambda data: np.frombuffer(data, np.uint8)]


def image(data, height, width, step, encoding, is_bigendian=0):
    return SimpleNamespace(
        data=data, height=height, width=width, step=step, encoding=encoding, is_bigendian=is_bigendian
    )


def image_of(pixels, encoding, padding=0, is_bigendian=0):
    """The message of an (H, W[, C]) array of uint8 or uint16 in the byte order named."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if is_bigendian else "<u2")
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return image(rows.tobytes(), *pixels.shape[:2], rows.shape[1], encoding, is_bigendian)


def random_pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def mosaic(rgb, pattern):
    """What a Bayer sensor sees of an (H, W, 3) image: at each place the one colour `pattern` gives it."""
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for i, color in enumerate(pattern):
        y, x = divmod(i, 2)
        raw[y::2, x::2] = rgb[y::2, x::2, "rgb".index(color)]
    return raw


def compressed(data, format="jpeg"):
    return SimpleNamespace(data=data, format=format)


def encoded(extension, pixels):
    return cv2.imencode(extension, pixels)[1].tobytes()


def picture(height=240, width=320):
    """Smooth colour (BGR), which JPEG keeps nearly exactly."""
    return cv2.resize(random_pixels(3, 4, 3), (width, height), interpolation=cv2.INTER_CUBIC)


# --- Image -----------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", LAYOUTS)
def test_colour_layouts_come_out_as_rgb(encoding, padding):
    rgb = random_pixels(6, 8, 3)
    sent = np.stack(np.broadcast_arrays(*LAYOUTS[encoding](*np.moveaxis(rgb, 2, 0))), axis=2).astype(np.uint8)
    frame = decode_image(image_of(sent, encoding, padding))
    assert frame.size == (6, 8)
    assert np.array_equal(frame.rgb(), rgb)
    assert frame.rgb().flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_mono_becomes_grey(encoding):
    grey = random_pixels(6, 8)
    assert np.array_equal(decode_image(image_of(grey, encoding, padding=3)).rgb(), np.dstack([grey] * 3))


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("16UC3", [2, 1, 0]), ("mono16", None)],
)
def test_16_bit_samples_give_their_high_byte_in_either_byte_order(encoding, order, is_bigendian):
    rgb = random_pixels(6, 8, 3, dtype=np.uint16)
    if order is None:
        rgb[:] = rgb[..., :1]
    sent = rgb[..., 0] if order is None else rgb[..., order]
    frame = decode_image(image_of(sent, encoding, padding=3, is_bigendian=is_bigendian))
    assert np.array_equal(frame.rgb(), rgb >> 8)


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("given", [0, 12])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "rgb16"])
def test_a_12_bit_sensor_in_16_bit_samples_is_not_black(encoding, given, is_bigendian):
    level, channels = np.uint16(0x9A7), ENCODINGS[encoding].channels
    samples = np.full((8, 8, channels), level)
    bits = SampleBits(given)
    rgb = decode_image(image_of(samples, encoding, 3, is_bigendian), bits).rgb()
    assert bits.bits == 12
    assert np.array_equal(rgb, np.full((8, 8, 3), 0x9A))


def test_the_bits_of_a_camera_are_those_of_the_brightest_sample_it_ever_sent():
    bits = SampleBits()
    levels = []
    for brightest in (0, 700, 4095, 700, 65535):
        frame = decode_image(image_of(np.full((2, 2), brightest, np.uint16), "mono16"), bits)
        levels.append((bits.bits, int(frame.pixels.max())))
    assert levels == [(8, 0), (10, 700 >> 2), (12, 255), (12, 700 >> 4), (16, 255)]


def test_samples_brighter_than_the_bits_given_are_white_and_other_numbers_of_bits_are_refused():
    samples = np.array([[4095, 4096, 65535]], np.uint16)
    assert decode_image(image_of(samples, "mono16"), SampleBits(12)).pixels.tolist() == [[255, 255, 255]]
    with pytest.raises(ValueError, match="not 7"):
        SampleBits(7)


@pytest.mark.parametrize("color", [RED, (0, 255, 0), (0, 0, 255)])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_pure_colour_seen_through_any_bayer_mosaic_comes_back(pattern, depth, color):
    rgb = np.full((16, 16, 3), color, np.uint8)
    raw = mosaic(rgb.astype(np.uint16) * 257 if depth == 16 else rgb, pattern)
    assert np.array_equal(decode_image(image_of(raw, f"bayer_{pattern}{depth}", padding=1)).rgb(), rgb)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv_422_comes_out_as_rgb(encoding, order):
    red_in_yuv = {"y": 81, "u": 90, "v": 240}  # ITU-R BT.601, studio range
    pair = np.array([red_in_yuv[sample] for sample in order], np.uint8).reshape(1, 2, 2)
    frame = decode_image(image_of(np.tile(pair, (4, 3, 1)), encoding, padding=2))
    assert frame.size == (4, 6)
    assert np.abs(frame.rgb().astype(int) - RED).max() <= 2


def test_pixels_are_a_view_of_the_message_even_with_padded_rows():
    message = image_of(random_pixels(6, 8, 3), "bgr8", padding=5)
    message.data = array.array("B", message.data)
    pixels = decode_image(message).pixels
    message.data[0] ^= 0xFF
    assert pixels[0, 0, 0] == message.data[0]
    assert not pixels.flags.writeable


@pytest.mark.parametrize("container", CONTAINERS)
def test_data_may_be_bytes_array_or_ndarray(container):
    rgb = random_pixels(6, 8, 3)
    message = image_of(rgb, "rgb8")
    message.data = container(message.data)
    assert np.array_equal(decode_image(message).rgb(), rgb)


def test_the_last_row_may_lack_its_padding():
    rgb = random_pixels(6, 8, 3)
    message = image_of(rgb, "rgb8", padding=5)
    message.data = message.data[:-5]
    assert np.array_equal(decode_image(message).rgb(), rgb)
    message.data = message.data[:-1]
    assert cause_of(decode_image, message) == "length"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [(2, 2), (3, 4), (32, 34), (64, 64)])
def test_every_encoding_gives_contiguous_rgb_of_the_size_asked_for(encoding, size):
    layout = ENCODINGS[encoding]
    pixels = random_pixels(32, 34, layout.channels, dtype=layout.dtype)
    rgb = decode_image(image_of(pixels, encoding, padding=7)).rgb(size)
    assert (rgb.shape, rgb.dtype) == ((*size, 3), np.uint8)
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["bgr8", "bayer_rggb8", "mono8"])
def test_shrinking_a_fine_pattern_gives_its_mean_and_no_moire(encoding):
    stripes = np.zeros((128, 128, ENCODINGS[encoding].channels), np.uint8)
    stripes[:, 0::4] = stripes[:, 3::4] = 200  # bilinear alone would meet the dark ones only
    rgb = decode_image(image_of(stripes, encoding)).rgb((32, 32))
    assert np.abs(rgb[2:-2, 2:-2].astype(int) - 100).max() <= 2


def cause_of(decode, *arguments):
    with pytest.raises(FrameError) as caught:
        decode(*arguments)
    assert caught.value.cause in CAUSES
    return caught.value.cause


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (image(b"", 0, 4, 12, "rgb8"), "size"),
        (image(b"", 4, 0, 0, "rgb8"), "size"),
        (image(bytes(12), 1, MAX_SIDE + 1, 12, "mono8"), "size"),
        (image(bytes(12), MAX_SIDE + 1, 1, 1, "mono8"), "size"),
        (image(bytes(12), 2, 3, 6, "yuv422"), "size"),
        (image(bytes(48), 4, 4, 11, "rgb8"), "step"),
        (image(bytes(48), 4, 4, 0, "rgb8"), "step"),
        (image(bytes(48), 4, 4, 4, "mono16"), "step"),
        (image(bytes(47), 4, 4, 12, "rgb8"), "length"),
        (image(b"", 4, 4, 12, "rgb8"), "length"),
        (image(bytes(48), 4, 4, 2**32 - 1, "rgb8"), "length"),
        (image(bytes(48), 4, 4, 12, "holographic"), "encoding"),
        (image(bytes(48), 4, 4, 12, ""), "encoding"),
        (image(bytes(64), 4, 4, 16, "32FC1"), "encoding"),
    ],
)
def test_bad_image_is_refused_with_its_cause(message, cause):
    assert cause_of(decode_image, message) == cause


def install_cv_bridge(monkeypatch, imgmsg_to_cv2):
    _cv_bridge.cache_clear()
    bridge = SimpleNamespace(imgmsg_to_cv2=imgmsg_to_cv2)
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=lambda: bridge))


@pytest.fixture(autouse=True)
def cv_bridge_of_this_machine():
    """What a test puts in its place is forgotten."""
    yield
    _cv_bridge.cache_clear()


def test_a_cv_bridge_built_for_another_numpy_is_the_cause_of_the_frames_that_need_it(monkeypatch, tmp_path):
    (tmp_path / "cv_bridge.py").write_text("raise AttributeError('_ARRAY_API not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    _cv_bridge.cache_clear()
    with pytest.raises(FrameError, match=r"nv21.*_ARRAY_API not found") as caught:
        decode_image(image(bytes(24), 4, 4, 4, "nv21"))
    assert caught.value.cause == "encoding"
    assert decode_image(image_of(random_pixels(4, 4, 3), "rgb8")).size == (4, 4)


def test_an_endless_name_of_an_encoding_does_not_fill_the_log(monkeypatch):
    def imgmsg_to_cv2(message, encoding):
        raise TypeError(f"unrecognised {message.encoding}")

    def refused():
        with pytest.raises(FrameError, match="xxxx") as caught:
            decode_image(image(bytes(24), 4, 4, 4, "x" * 100_000))
        return len(str(caught.value)) < 400

    assert refused()
    install_cv_bridge(monkeypatch, imgmsg_to_cv2)
    assert refused()


def test_other_encodings_go_through_cv_bridge_where_it_is_installed(monkeypatch):
    asked = []
    rgb = random_pixels(4, 4, 3)
    install_cv_bridge(
        monkeypatch, lambda message, encoding: asked.append((message.encoding, encoding)) or rgb
    )
    assert np.array_equal(decode_image(image(bytes(24), 4, 4, 4, "nv21")).rgb(), rgb)
    assert asked == [("nv21", "rgb8")]


def test_what_cv_bridge_cannot_convert_is_refused_too(monkeypatch):
    def imgmsg_to_cv2(message, encoding):
        raise TypeError("unrecognised")

    install_cv_bridge(monkeypatch, imgmsg_to_cv2)
    assert cause_of(decode_image, image(bytes(24), 4, 4, 4, "nv21")) == "encoding"


# --- CompressedImage -------------------------------------------------------


@pytest.mark.parametrize("format", ["png", "rgb8; png compressed bgr8"])
def test_png_comes_out_exactly(format):
    bgr = random_pixels(24, 32, 3)
    frame = decode_compressed(compressed(encoded(".png", bgr), format))
    assert np.array_equal(frame.rgb(), bgr[..., ::-1])


def test_grey_and_transparent_png_become_rgb():
    grey = random_pixels(24, 32)
    assert np.array_equal(decode_compressed(compressed(encoded(".png", grey))).rgb(), np.dstack([grey] * 3))
    bgra = random_pixels(24, 32, 4)
    assert decode_compressed(compressed(encoded(".png", bgra))).rgb().shape == (24, 32, 3)


@pytest.mark.parametrize("container", CONTAINERS)
def test_jpeg_comes_out_as_rgb(container):
    bgr = picture()
    frame = decode_compressed(compressed(container(encoded(".jpg", bgr)), "rgb8; jpeg compressed bgr8"))
    assert frame.size == (240, 320)
    assert np.abs(frame.rgb().astype(int) - bgr[..., ::-1]).mean() < 3


@pytest.mark.parametrize(
    ("needed", "decoded"),
    [
        ((240, 320), (240, 320)),
        ((121, 160), (240, 320)),
        ((120, 160), (120, 160)),
        ((60, 81), (120, 160)),
        ((60, 80), (60, 80)),
        ((10, 10), (30, 40)),
    ],
)
def test_jpeg_is_decoded_as_small_as_the_size_needed_allows(needed, decoded):
    frame = decode_compressed(compressed(encoded(".jpg", picture())), needed)
    assert frame.pixels.shape[:2] == decoded
    assert frame.size == (240, 320)
    assert frame.rgb().shape == (240, 320, 3)
    assert frame.rgb(needed).shape == (*needed, 3)


def test_png_is_decoded_whole_for_any_size_needed():
    assert decode_compressed(compressed(encoded(".png", picture())), (10, 10)).pixels.shape == (240, 320, 3)


def test_progressive_jpeg_and_bytes_after_the_end_are_accepted():
    bgr = picture()
    stream = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    frame = decode_compressed(compressed(stream + bytes(4096)))
    assert np.abs(frame.rgb().astype(int) - bgr[..., ::-1]).mean() < 3


def test_fill_bytes_before_a_marker_are_accepted():
    plain = encoded(".jpg", picture())
    segment = 2 + 2 + struct.unpack_from(">H", plain, 4)[0]  # the first one, after SOI
    scan = plain.index(b"\xff\xda")
    filled = plain[:2] + b"\xff" * 3 + plain[2:segment] + b"\xff" + plain[segment:scan] + b"\xff" * 300 + plain[scan:]
    frame = decode_compressed(compressed(filled))
    assert np.array_equal(frame.pixels, decode_compressed(compressed(plain)).pixels)


def test_a_png_of_a_12_bit_sensor_is_not_black():
    samples = np.full((8, 8), 0x9A7, np.uint16)
    frame = decode(compressed(encoded(".png", samples), "mono16; png compressed "), bits=SampleBits())
    assert np.array_equal(frame.rgb(), np.full((8, 8, 3), 0x9A))


def test_the_number_of_compressed_pixels_can_be_limited():
    message = compressed(encoded(".png", picture(240, 320)))
    assert decode_compressed(message, max_pixels=240 * 320).size == (240, 320)
    assert cause_of(lambda: decode_compressed(message, max_pixels=240 * 320 - 1)) == "size"


def test_orientation_in_exif_does_not_turn_the_frame():
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation: turned by 90 degrees
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    stream = encoded(".jpg", picture())
    turned = stream[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + stream[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (320, 240, 3)
    assert decode_compressed(compressed(turned)).pixels.shape == (240, 320, 3)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def jpeg_with_size(height, width):
    stream = encoded(".jpg", picture())
    start = stream.index(b"\xff\xc0") + 5
    return stream[:start] + struct.pack(">HH", height, width) + stream[start + 4 :]


JPEG, PNG = encoded(".jpg", picture()), encoded(".png", picture())


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param(b"", "compressed", id="empty"),
        pytest.param(b"BM" + bytes(500), "compressed", id="bmp"),
        pytest.param(JPEG[:2], "compressed", id="jpeg-signature-only"),
        pytest.param(JPEG[:100], "compressed", id="jpeg-half-header"),
        pytest.param(JPEG[: len(JPEG) // 2], "compressed", id="jpeg-half"),
        pytest.param(JPEG[:-2], "compressed", id="jpeg-without-end"),
        pytest.param(
            JPEG[:2] + b"\xff\xfe\x00\x04\xff\xd9" + JPEG[2:-2], "compressed", id="jpeg-end-in-comment"
        ),
        pytest.param(JPEG[:2] + bytes(1000), "compressed", id="jpeg-of-zeros"),
        pytest.param(b"\xff\xd8" + b"\xff" * 100_000, "compressed", id="jpeg-of-fill-bytes"),
        pytest.param(
            JPEG[:2] + b"\xff\xe0\x00\x02" * 100_000 + JPEG[2:], "compressed", id="jpeg-of-segments"
        ),
        pytest.param(JPEG[:2] + b"\xff" * 100_000 + JPEG[2:100], "compressed", id="jpeg-filled-half-header"),
        pytest.param(PNG[:12], "compressed", id="png-half-header"),
        pytest.param(PNG[: len(PNG) // 2], "compressed", id="png-half"),
        pytest.param(PNG[:200] + b"\0" + PNG[201:], "compressed", id="png-altered"),
        pytest.param(png_header(30_000, 30_000), "size", id="png-bomb"),
        pytest.param(png_header(MAX_SIDE, MAX_SIDE), "size", id="png-of-too-many-pixels"),
        pytest.param(png_header(0, 10), "size", id="png-without-width"),
        pytest.param(jpeg_with_size(60_000, 60_000), "size", id="jpeg-bomb"),
        pytest.param(jpeg_with_size(0, 320), "size", id="jpeg-without-height"),
    ],
)
def test_bad_compressed_image_is_refused_with_its_cause(data, cause):
    assert cause_of(decode_compressed, compressed(data)) == cause


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (png_header(30_000, 30_000), "size"),
        (jpeg_with_size(60_000, 60_000), "size"),
        (JPEG[: len(JPEG) // 2], "compressed"),
    ],
)
def test_bombs_and_cut_off_jpegs_are_refused_without_decoding(data, cause, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert cause_of(decode_compressed, compressed(data)) == cause


# --- messages made ---------------------------------------------------------


@pytest.mark.parametrize(("encoding", "channels"), [("mono8", ()), ("rgb8", (3,))])
def test_image_message_carries_the_pixels_and_the_header_itself(encoding, channels):
    pytest.importorskip("sensor_msgs")
    from std_msgs.msg import Header

    header = Header(frame_id="camera")
    pixels = random_pixels(6, 16, *channels)[:, ::2]  # not contiguous
    message = image_message(pixels, encoding, header)
    assert message.header is header
    assert (message.height, message.width, message.encoding) == (6, 8, encoding)
    assert message.step * message.height == len(message.data)
    assert bytes(message.data) == pixels.tobytes()
    assert np.array_equal(decode_image(message).pixels, pixels)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2))])
def test_pixels_that_do_not_fit_the_encoding_make_no_message(pixels):
    pytest.importorskip("sensor_msgs")
    with pytest.raises(ValueError, match="no mono8 image"):
        image_message(pixels, "mono8", None)
