"""Makes a VHDX whose log has an entry that was not replayed, as after a crash of its host."""
import pathlib
import struct
import subprocess


def _table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


TABLE = _table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_checksum(block):
    block[4:8] = bytes(4)
    block[4:8] = struct.pack("<I", crc32c(block))
    return block


def log_entry(guid, file_size, place, payload):
    """Returns a log entry that writes 4 KiB to this place of the file."""
    entry = bytearray(8192)
    entry[0:4] = b"loge"
    struct.pack_into("<IIQII", entry, 8, 8192, 0, 1, 1, 0)
    entry[32:48] = guid
    struct.pack_into("<QQ", entry, 48, file_size, file_size)
    entry[64:68] = b"desc"
    entry[68:72] = payload[-4:]
    entry[72:80] = payload[:8]
    struct.pack_into("<QQ", entry, 80, place, 1)
    entry[4096:4100] = b"data"
    entry[4104:8188] = payload[8:-4]
    struct.pack_into("<I", entry, 8188, 1)
    return with_checksum(entry)


def make(out):
    """Writes the file. Its log holds the first 4 KiB of the disk, the text LOGGED; the disk itself has a single x there."""
    raw = pathlib.Path(f"{out}.raw")
    raw.write_bytes(bytes(100) + b"x" + bytes((8 << 20) - 101))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, out], check=True)
    with open(out, "r+b") as file:
        data = bytearray(file.read())
        guid = bytes(range(1, 17))
        _, header_at = max((struct.unpack_from("<Q", data, at + 8)[0], at) for at in (0x10000, 0x20000))
        _, log_at = struct.unpack_from("<IQ", data, header_at + 68)
        header = data[header_at:header_at + 4096]
        header[48:64] = guid
        file.seek(header_at)
        file.write(with_checksum(header))
        block = data.rfind(b"x" + bytes(4000)) - 100
        file.seek(log_at)
        file.write(log_entry(guid, len(data), block, b"LOGGED".ljust(4096, b".")))
