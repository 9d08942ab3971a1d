"""Makes awkward media: what strangers' data sets hold, each case with what a decoder must do about it."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile
from PIL import Image as Pillow

GREY_RAMP = np.linspace(0, 255, 64 * 48).reshape(48, 64)


@dataclass(frozen=True)
class Case:
    """Bytes made by `make`, and the reason of the BadSample (`a or b`); None where a value is expected."""

    make: Callable[[], bytes]
    reason: str | None = None


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Pillow.Image:
    return Pillow.fromarray(GREY_RAMP.astype(np.uint8)).resize(size).convert(mode)


def encoded(image: Pillow.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def sound(waveform: np.ndarray, rate: int = 16000, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=format, subtype=subtype)
    return file.getvalue()


def tone(seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) * 0.3


def clip(
    codec: str = "libx264", format: str = "mp4", frames: int = 24, rate: int = 12, size=(64, 48)
) -> bytes:
    """A clip whose frames grow brighter, by 10 levels each."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def sound_only() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    whole = encoded(picture())
    return whole[:33] + png_chunk(kind, content) + whole[33:]  # behind the header


def wav(
    *,
    rate: int = 16000,
    channels: int = 1,
    bits: int = 16,
    codec: int = 1,
    riff: int | None = None,
    data=None,
) -> bytes:
    """A second of sound under a header that says whatever it is told to."""
    samples = (tone() * 32767).astype("<i2").tobytes()
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", codec, channels, rate, (rate * frame) & 0xFFFFFFFF, frame & 0xFFFF, bits)
    size = len(samples) if data is None else data
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def transparent(mode: str) -> bytes:
    """Colour that nobody is to see under full transparency."""
    hidden = np.zeros((48, 64, 4), np.uint8)
    hidden[..., 0], hidden[..., 1] = 200, 30
    image = Pillow.fromarray(hidden)
    return encoded(image, "WEBP", lossless=True, exact=True) if mode == "WEBP" else encoded(image)


def hidden_palette() -> bytes:
    image = Pillow.new("P", (64, 48))
    image.putpalette([200, 30, 0] * 256)
    return encoded(image, "GIF", transparency=0)


def many_scans() -> bytes:
    whole = encoded(picture(), "JPEG", progressive=True)
    start = whole.index(b"\xff\xda")
    scan = whole[start : whole.index(b"\xff", start + 2)]
    return whole[:start] + scan * 200 + whole[start:]


def oriented(format: str, orientation: object) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), format, exif=exif)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
BOMB = zlib.compress(b"\0" * 20_000_000)

IMAGES = {
    "empty": Case(lambda: b"", "undecodable_image"),
    "only the first bytes of a JPEG": Case(lambda: encoded(picture(), "JPEG")[:20], "undecodable_image"),
    "a web page": Case(lambda: b"<!doctype html><html>404</html>", "undecodable_image"),
    "PostScript": Case(lambda: EPS, "undecodable_image"),
    "PDF": Case(lambda: b"%PDF-1.4\n1 0 obj\n", "undecodable_image"),
    "SVG": Case(lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "undecodable_image"),
    "an icon, a format that is not allowed": Case(lambda: encoded(picture(), "ICO"), "undecodable_image"),
    "a text chunk that unpacks to 20 MB": Case(
        lambda: with_chunk(b"zTXt", b"Comment\0\0" + BOMB), "undecodable_image"
    ),
    "a colour profile that unpacks to 20 MB": Case(
        lambda: with_chunk(b"iCCP", b"icc\0\0" + BOMB), "undecodable_image"
    ),
    "a PNG chunk with a wrong checksum": Case(
        lambda: encoded(picture()).replace(b"IDAT", b"IDAT\x01", 1), "undecodable_image"
    ),
    "200 scans": Case(many_scans, "undecodable_image"),
    "90 million pixels": Case(lambda: encoded(Pillow.new("1", (9500, 9500))), "image_too_large"),
    "a header that promises 4 billion pixels": Case(
        lambda: b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\0;", "image_too_large"
    ),
    "1 x 20000": Case(lambda: encoded(Pillow.new("1", (1, 20000))), "image_aspect"),
    "20000 x 1 as JPEG": Case(lambda: encoded(Pillow.new("L", (20000, 1)), "JPEG"), "image_aspect"),
    **{
        f"a {format} cut at {share:.0%}": Case(
            lambda format=format, share=share: (whole := encoded(picture(), format))[: int(share * len(whole))],
            "undecodable_image",
        )
        for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
        for share in (0.5, 0.95)
    },
    **{f"mode {mode}": Case(lambda mode=mode: encoded(picture(mode))) for mode in ("1", "L", "LA", "P", "RGBA")},
    **{
        f"16 bits as {format}": Case(
            lambda format=format: encoded(Pillow.fromarray((GREY_RAMP * 257).astype(np.uint16)), format)
        )
        for format in ("PNG", "TIFF")
    },
    "floats": Case(lambda: encoded(Pillow.fromarray((GREY_RAMP / 255).astype(np.float32)), "TIFF")),
    "CMYK as JPEG": Case(lambda: encoded(picture("CMYK"), "JPEG")),
    "CMYK as TIFF": Case(lambda: encoded(picture("CMYK"), "TIFF")),
    "progressive": Case(lambda: encoded(picture(), "JPEG", progressive=True)),
    "grey JPEG": Case(lambda: encoded(picture("L"), "JPEG")),
    **{
        f"animated {format}": Case(
            lambda format=format: encoded(
                picture(), format, save_all=True, append_images=[Pillow.new("RGB", (64, 48), "red")] * 2
            )
        )
        for format in ("GIF", "PNG", "WEBP", "TIFF")
    },
    **{
        f"{format} under another name": Case(lambda format=format: encoded(picture(), format))
        for format in ("GIF", "BMP", "TIFF", "WEBP")
    },
    **{f"orientation {value!r}": Case(lambda value=value: oriented("JPEG", value)) for value in (0, 9, 77)},
    "EXIF that is noise": Case(lambda: encoded(picture(), "JPEG", exif=b"Exif\0\0" + b"\xfe\x01" * 40)),
    "EXIF that is noise in a PNG": Case(lambda: with_chunk(b"eXIf", b"\xfe\x01" * 40)),
    "a colour profile that is noise": Case(lambda: encoded(picture(), "JPEG", icc_profile=b"noise" * 40)),
    "a colour profile that is noise in a PNG": Case(lambda: with_chunk(b"iCCP", b"icc\0\0noise")),
    "bytes behind the end": Case(lambda: encoded(picture(), "JPEG") + b"junk" * 99),
}  # fmt: skip

SOUNDS = {
    "empty": Case(lambda: b"", "undecodable_audio"),
    "only a tag": Case(lambda: b"RIFF", "undecodable_audio"),
    "a web page": Case(lambda: b"<!doctype html><html>404</html>", "undecodable_audio"),
    "no samples": Case(lambda: sound(np.zeros(0)), "audio_too_short"),
    "five samples": Case(lambda: sound(np.zeros(5)), "audio_too_short"),
    "NaN": Case(lambda: sound(np.full(16000, np.nan), subtype="FLOAT"), "audio_not_finite"),
    "one infinite sample": Case(
        lambda: sound(np.where(np.arange(16000) == 9000, np.inf, 0.0), subtype="DOUBLE"), "audio_not_finite"
    ),
    "half of what is promised": Case(lambda: wav()[:16000], "audio_cut"),
    "a data chunk that promises more": Case(lambda: wav(data=64000), "audio_cut"),
    "0 Hz": Case(lambda: wav(rate=0), "undecodable_audio"),
    "4 GHz": Case(lambda: wav(rate=2**32 - 1), "undecodable_audio"),
    "3 Hz": Case(lambda: wav(rate=3), "audio_header"),
    "no channel": Case(lambda: wav(channels=0), "undecodable_audio"),
    "65535 channels": Case(lambda: wav(channels=65535), "undecodable_audio"),
    "64 channels": Case(lambda: sound(np.zeros((16000, 64))), "audio_header"),
    "no bits": Case(lambda: wav(bits=0), "undecodable_audio"),
    "an unknown codec": Case(lambda: wav(codec=0x7777), "undecodable_audio"),
    "no format chunk": Case(lambda: b"RIFF" + struct.pack("<I", 100) + b"WAVE" + wav()[36:], "undecodable_audio"),
    "a format that is not allowed": Case(lambda: sound(tone(), format="AIFF"), "undecodable_audio"),
    **{
        f"{format} cut at {share:.0%}": Case(
            lambda format=format, share=share: (whole := sound(tone(), format=format))[: int(share * len(whole))],
            "audio_cut or undecodable_audio" if format == "FLAC" else "audio_cut",  # as libsndfile's age is
        )
        for format in ("WAV", "FLAC", "OGG", "MP3")
        for share in (0.6, 0.97)
    },
    **{
        f"{rate} Hz": Case(lambda rate=rate: sound(tone(rate=rate), rate)) for rate in (8000, 11025, 44100, 96000)
    },
    **{
        f"{count} channels": Case(lambda count=count: sound(np.stack([tone()] * count, 1))) for count in (2, 6, 8)
    },
    **{
        f"subtype {kind}": Case(lambda kind=kind: sound(tone(), subtype=kind))
        for kind in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")
    },
    **{
        f"{format} under another name": Case(lambda format=format: sound(tone(), format=format))
        for format in ("FLAC", "OGG", "MP3")
    },
    "floats far out of range": Case(lambda: sound(tone() * 1e6, subtype="FLOAT")),
    "lengths that a stream left at their largest": Case(lambda: wav(riff=0xFFFFFFFF, data=0xFFFFFFFF)),
    "lengths that a stream left at 0": Case(lambda: wav(riff=0, data=0)),
    "a length of 2 GB that a stream left": Case(lambda: wav(riff=0x7FFFFFFF, data=0x7FFFFFFF - 36)),
}  # fmt: skip

VIDEOS = {
    "empty": Case(lambda: b"", "undecodable_video"),
    "zeros": Case(lambda: bytes(8), "undecodable_video"),
    "a web page": Case(lambda: b"<!doctype html><html>404</html>", "undecodable_video"),
    "sound alone": Case(sound_only, "video_without_pictures"),
    "an index without pictures": Case(lambda: (whole := clip())[: whole.index(b"mdat")], "undecodable_video"),
    "pictures that are noise": Case(
        lambda: (whole := clip())[: (at := whole.index(b"mdat") + 4)]
        + b"\xa5" * (whole.index(b"moov") - 4 - at)
        + whole[whole.index(b"moov") - 4 :],
        "undecodable_video",
    ),
    "an index that claims 2 billion frames": Case(
        lambda: (whole := clip())[: (at := whole.index(b"stsz") + 12)] + b"\x7f\xff\xff\xff" + whole[at + 4 :],
        "undecodable_video",
    ),
    "a concat script": Case(lambda: b"ffconcat version 1.0\nfile neighbour.ts\n", "undecodable_video"),
    "a session description": Case(
        lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "undecodable_video",
    ),
    "a playlist": Case(
        lambda: b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "undecodable_video"
    ),
    "DASH": Case(lambda: b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/</BaseURL></MPD>', "undecodable_video"),
    **{
        f"{format} cut at {share:.0%}": Case(
            lambda format=format, codec=codec, share=share: (whole := clip(codec, format))[
                : int(share * len(whole))
            ],
            "undecodable_video",
        )
        for format, codec in (("mp4", "libx264"), ("webm", "libvpx-vp9"), ("matroska", "mpeg4"))
        for share in (0.3, 0.9)
    },
    "one frame": Case(lambda: clip(frames=1)),
    "two frames": Case(lambda: clip(frames=2)),
    "a frame a second": Case(lambda: clip(frames=3, rate=1)),
    "120 frames a second": Case(lambda: clip(frames=24, rate=120)),
    **{
        f"{codec} in {format}": Case(lambda format=format, codec=codec: clip(codec, format))
        for format, codec in (("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "libx264"), ("mp4", "mpeg4"))
    },
}  # fmt: skip
