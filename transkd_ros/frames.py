"""Camera messages to arrays and back: sensor_msgs Image and CompressedImage.

Messages are read by their attributes only, so those of rclpy, of rosbags and stand-ins all work. Nothing in
a message is trusted: whatever is wrong with one raises FrameError with a cause that can be counted. cv_bridge
is imported for unusual encodings only.
"""

from __future__ import annotations

import array
import functools
import re
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from transkd_ros.sizes import Size

CAUSES = ("encoding", "size", "step", "length", "compressed")
MAX_SIDE = 16384
MAX_COMPRESSED_PIXELS = 1 << 24  # a few bytes of PNG can announce any size; twice 4K takes 50 MB decoded
SAMPLE_BITS = (8, 10, 12, 14, 16)  # that sensors have


class FrameError(ValueError):
    """A message that holds no usable frame; `cause` is one of CAUSES."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Encoding(NamedTuple):
    channels: int
    dtype: type[np.generic]
    to_rgb: int | None  # OpenCV's conversion, None for none
    is_mosaic: bool = False  # neighbouring samples differ in meaning: convert to RGB before resizing


# OpenCV names a Bayer pattern by its second row from the second column on, ROS by its first: RGGB is "BG".
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
# The names of sensor_msgs/image_encodings.hpp. 8UCn and 16UC3 name no colours; read as cv_bridge reads them.
ENCODINGS = {
    "rgb8": Encoding(3, np.uint8, None),
    "bgr8": Encoding(3, np.uint8, cv2.COLOR_BGR2RGB),
    "8UC3": Encoding(3, np.uint8, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, np.uint8, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, np.uint8, cv2.COLOR_BGRA2RGB),
    "8UC4": Encoding(4, np.uint8, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, np.uint8, cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(1, np.uint8, cv2.COLOR_GRAY2RGB),
    "rgb16": Encoding(3, np.uint16, None),
    "bgr16": Encoding(3, np.uint16, cv2.COLOR_BGR2RGB),
    "16UC3": Encoding(3, np.uint16, cv2.COLOR_BGR2RGB),
    "mono16": Encoding(1, np.uint16, cv2.COLOR_GRAY2RGB),
    "uyvy": Encoding(2, np.uint8, cv2.COLOR_YUV2RGB_UYVY, is_mosaic=True),
    "yuv422": Encoding(2, np.uint8, cv2.COLOR_YUV2RGB_UYVY, is_mosaic=True),
    "yuyv": Encoding(2, np.uint8, cv2.COLOR_YUV2RGB_YUY2, is_mosaic=True),
    "yuv422_yuy2": Encoding(2, np.uint8, cv2.COLOR_YUV2RGB_YUY2, is_mosaic=True),
    **{f"bayer_{name}8": Encoding(1, np.uint8, code, is_mosaic=True) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": Encoding(1, np.uint16, code, is_mosaic=True) for name, code in _BAYER.items()},
}
# Scaled decoding skips work inside the JPEG decoder; of a PNG every pixel has to be decoded all the same.
_JPEG_REDUCTIONS = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)


@dataclass(frozen=True)
class Frame:
    """One camera frame, not yet converted.

    pixels: (H, W) or (H, W, C) uint8, where possible a read-only view of the message; of 16-bit samples the
    eight highest bits that the camera uses. encoding: a key of ENCODINGS. full_size: what the camera sent, if
    `pixels` are fewer.
    """

    pixels: np.ndarray
    encoding: str
    full_size: Size | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the frame as the camera sent it."""
        return self.full_size or (self.pixels.shape[0], self.pixels.shape[1])

    def rgb(self, size: Size | None = None) -> np.ndarray:
        """(h, w, 3) uint8 RGB, contiguous, of `size` (default: the frame's); may be a view of the message."""
        encoding = ENCODINGS[self.encoding]
        size = size or self.size
        if encoding.is_mosaic:
            return resize(_converted(self.pixels, encoding.to_rgb), size)
        # Resized first: a network's input has fewer pixels to convert.
        return np.ascontiguousarray(_converted(resize(self.pixels, size), encoding.to_rgb))


class SampleBits:
    """How many low bits of its 16-bit samples a camera uses: `bits` of SAMPLE_BITS, or what its samples tell.

    A sensor of 12 bits in mono16 or bayer_rggb16 leaves the high ones zero; taken for 16 bits it would be black.
    With `bits` 0 they are as many as the brightest sample seen so far needs, and never fewer again, so keep one
    of these per camera. Raises ValueError for another number.
    """

    def __init__(self, bits: int = 0) -> None:
        if bits and bits not in SAMPLE_BITS:
            raise ValueError(f"a sample has {', '.join(map(str, SAMPLE_BITS))} bits, or 0 to find out; not {bits}")
        self.bits = bits or SAMPLE_BITS[0]
        self._is_given = bool(bits)

    def high_byte(self, samples: np.ndarray) -> np.ndarray:
        """The eight highest bits used of uint16 `samples`, as uint8 of the same shape; a brighter one is 255."""
        if not self._is_given and self.bits < SAMPLE_BITS[-1]:
            needed = int(samples.max(initial=0)).bit_length()
            self.bits = max(self.bits, next(bits for bits in SAMPLE_BITS if bits >= needed))
        return np.minimum(samples >> (self.bits - 8), 255).astype(np.uint8)


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """`pixels` (H, W[, C]) uint8 at `size` (height, width); itself if it has that size.

    Halved by 2x2 averaging as often as the result stays large enough, then bilinear. That is a tenth of the
    time of INTER_AREA; bilinear alone would look at four of each sixteen pixels when a frame shrinks
    fourfold, and thin things, poles and lane markings, would flicker.
    """
    height, width = size
    while pixels.shape[0] >= 2 * height and pixels.shape[1] >= 2 * width:
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels


def decode(
    msg: Any, size: Size | None = None, bits: SampleBits | None = None, max_pixels: int = MAX_COMPRESSED_PIXELS
) -> Frame:
    """The frame of a sensor_msgs/Image or CompressedImage. Raises FrameError.

    `size` and `max_pixels` are of `decode_compressed`, `bits` of both.
    """
    return decode_image(msg, bits) if hasattr(msg, "encoding") else decode_compressed(msg, size, bits, max_pixels)


def decode_image(msg: Any, bits: SampleBits | None = None) -> Frame:
    """The frame of a sensor_msgs/Image, without a copy for every encoding of ENCODINGS with all bits in use.

    `bits` are those of 16-bit samples, all 16 by default. Rows may be padded, and the last one may lack its
    padding. Other encodings go through cv_bridge where a ROS installation has it. Raises FrameError: encoding,
    size (a side 0 or > MAX_SIDE, odd width of 4:2:2), step (smaller than a row), length (fewer bytes than rows).
    """
    height, width, step = msg.height, msg.width, msg.step
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise FrameError("size", f"image is {width}x{height}; each side must be 1 to {MAX_SIDE} pixels")
    encoding = ENCODINGS.get(msg.encoding)
    if encoding is None:
        return _through_cv_bridge(msg)
    if encoding.channels == 2 and width % 2:
        raise FrameError("size", f"{msg.encoding} image is {width} pixels wide; 4:2:2 needs an even width")

    sample = np.dtype(encoding.dtype).itemsize
    row = width * encoding.channels * sample
    if step < row:
        raise FrameError("step", f"step is {step} bytes; {width} pixels of {msg.encoding} are {row}")
    needed = step * (height - 1) + row
    if len(msg.data) < needed:
        raise FrameError("length", f"image has {len(msg.data)} bytes; {height} rows of {step} need {needed}")

    shape, strides = (height, width, encoding.channels), (step, encoding.channels * sample, sample)
    pixels: np.ndarray
    if sample == 2 and bits:
        pixels = bits.high_byte(np.ndarray(shape, ">u2" if msg.is_bigendian else "<u2", msg.data, 0, strides))
    else:
        pixels = np.ndarray(shape, np.uint8, msg.data, 0 if msg.is_bigendian else sample - 1, strides)
    pixels.flags.writeable = False
    return Frame(pixels[..., 0] if encoding.channels == 1 else pixels, msg.encoding)


def decode_compressed(
    msg: Any, size: Size | None = None, bits: SampleBits | None = None, max_pixels: int = MAX_COMPRESSED_PIXELS
) -> Frame:
    """The frame of a sensor_msgs/CompressedImage holding JPEG or PNG; the stream itself says which.

    With `size`, a JPEG is decoded at 1/2, 1/4 or 1/8 where the result is at least that large, which is much
    faster; `Frame.size` stays the camera's. `bits` are those of a PNG of 16-bit samples, all 16 by default.
    Raises FrameError: compressed (empty, another format, broken, cut off), size (a side 0 or > MAX_SIDE, or more
    than `max_pixels` in all; found before decoding).
    """
    data = bytes(msg.data)
    reductions: tuple[tuple[int, int], ...] = ()
    keep_depth = 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        full, depth = _png_size(data)
        keep_depth = cv2.IMREAD_ANYDEPTH if depth == 16 and bits else 0
    elif data.startswith(b"\xff\xd8"):
        full = _jpeg_size(data)
        reductions = _JPEG_REDUCTIONS
    else:
        raise FrameError("compressed", f"{len(data)} bytes of format '{msg.format}' are neither JPEG nor PNG")
    height, width = full
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE) or height * width > max_pixels:
        limits = f"1 to {MAX_SIDE} a side and {max_pixels} pixels in all"
        raise FrameError("size", f"compressed image is {width}x{height}; it may have {limits}")

    least = size or full
    fitting = (mode for by, mode in reductions if height >= by * least[0] and width >= by * least[1])
    mode = next(fitting, cv2.IMREAD_COLOR)
    # An orientation in EXIF is ignored, as image_transport does: else the mask would not fit what it shows.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | keep_depth | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise FrameError("compressed", f"{width}x{height} image of format '{msg.format}' cannot be decoded")
    if bits and pixels.dtype == np.uint16:
        pixels = bits.high_byte(pixels)
    return Frame(pixels, "bgr8", full)


def resize_mask(mask: Any, size: tuple[int, ...]) -> Any:
    """A mask (h, w) uint8 at `size` (H, W); each pixel takes the value with the nearest centre: ids never mix."""
    if mask.shape == size:
        return mask
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def image_message(pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """rclpy's sensor_msgs/Image of `image_fields`; `header` is shared, not copied."""
    from sensor_msgs.msg import Image

    fields = image_fields(pixels, encoding)
    data = array.array("B")  # rclpy takes an array as it is; anything else it would check byte by byte
    data.frombytes(fields.pop("data").data)
    return Image(header=header, data=data, **fields)


def image_fields(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """The fields of a sensor_msgs/Image but its header; data (H * W * C,) uint8, where possible a view of `pixels`.

    `pixels` are (H, W) or (H, W, C) uint8 of an `encoding` of eight bits; raises ValueError for others.
    """
    channels, dtype = ENCODINGS[encoding][:2]
    if pixels.dtype != np.uint8 or dtype != np.uint8 or pixels.shape[2:] != (channels,) * (channels > 1):
        raise ValueError(f"{pixels.shape} {pixels.dtype} pixels are no {encoding} image")
    (height, width), data = pixels.shape[:2], np.ascontiguousarray(pixels).reshape(-1)
    step = data.size // height
    return {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": step, "data": data}


def _converted(pixels: np.ndarray, code: int | None) -> np.ndarray:
    return pixels if code is None else cv2.cvtColor(pixels, code)


def _through_cv_bridge(msg: Any) -> Frame:
    bridge, problem = _cv_bridge()
    name = f"{msg.encoding:.40}"  # it may be as long as the sender likes, and is logged
    if bridge is None:
        raise FrameError("encoding", f"encoding '{name}' is not supported without cv_bridge, which {problem}")
    try:
        return Frame(np.asarray(bridge.imgmsg_to_cv2(msg, "rgb8"), np.uint8), "rgb8")
    except Exception as error:  # CvBridgeError, cv2.error, TypeError, …: it promises nothing
        raise FrameError("encoding", f"cv_bridge cannot convert '{name}' to rgb8: {error!s:.200}") from error


@functools.cache  # what cannot be imported prints half a page each time that it is tried
def _cv_bridge() -> tuple[Any, str]:
    """cv_bridge's converter, or None and what is wrong with it."""
    try:
        from cv_bridge import CvBridge

        return CvBridge(), ""
    except ModuleNotFoundError:
        return None, "is not installed"
    except Exception as error:  # built for another NumPy or OpenCV: ImportError, AttributeError, SystemError, …
        return None, f"cannot be imported: {error}"


def _png_size(data: bytes) -> tuple[Size, int]:
    """(height, width) and bits a sample of the IHDR chunk, which the PNG specification puts first."""
    if len(data) < 25:
        raise FrameError("compressed", "PNG stream ends inside its header")
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    return (height, width), depth


_JPEG_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # any number of fill bytes 0xFF may come first (B.1.1.2)


def _jpeg_size(data: bytes) -> Size:
    """(height, width) of the frame header (SOFn) of ITU-T T.81; raises FrameError if the stream is cut off.

    Older OpenCV decodes what there is of such a stream and leaves the rest grey without a word, so the end of
    image must be there: it cannot occur inside the scan that follows the headers. Bytes after it are allowed.
    """
    size = None
    at = 2
    for _ in range(1000):  # segments; real streams have some ten, and a hostile one must not keep us busy
        found = _JPEG_MARKER.match(data, at)
        if not found or found.end() + 7 > len(data):
            break
        at, marker = found.end(), found[1][0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0 to SOF15 without DHT, JPG, DAC
            size = struct.unpack_from(">HH", data, at + 3)
        if marker == 0xDA:  # start of scan
            if size is None or data.rfind(b"\xff\xd9", at) < 0:
                break
            return size
        at += struct.unpack_from(">H", data, at)[0]
    raise FrameError("compressed", f"JPEG stream of {len(data)} bytes is cut off or broken")
