// Everything has a fixed size, so the counts alone give the length of the head.

#include "image/boot_pack.h"

#include "base/error.h"
#include "image/tree.h"

namespace isr {
namespace {

constexpr std::string_view kMagic = "ISRB";
constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kFixedSize = 20;
constexpr std::size_t kImageSize = kMaxBootImageName + Sha256::kSize;
constexpr std::size_t kPlaceSize = 8;

static_assert(kFixedSize + kMaxBootImages * kImageSize + (kMaxBootPages + kMaxBootChunks) * kPlaceSize <=
              kMaxBootHeadSize - kChunkSize);
static_assert(kBootPagesInChunk * kBootPageSize == kChunkSize);

[[noreturn]] void fail(std::string_view what) { throw Error(ErrorKind::kCorrupt, "a boot pack: " + std::string(what)); }

constexpr std::size_t rounded_up(std::size_t size) { return (size + kChunkSize - 1) / kChunkSize * kChunkSize; }

struct Counts {
  std::uint32_t images = 0, pages = 0, chunks = 0;
  std::size_t head_size() const {
    return rounded_up(kFixedSize + images * kImageSize + (std::size_t{pages} + chunks) * kPlaceSize);
  }
};

std::uint32_t read_count(ByteReader& in, std::size_t most) {
  const std::uint32_t count = in.u32();
  if (count > most) fail("a count is too large");
  return count;
}

Counts read_counts(ByteReader& in) {
  if (as_text(in.take(kMagic.size())) != kMagic) fail("it does not begin like a boot pack");
  if (in.u32() != kVersion) fail("its version is unknown");
  Counts counts;
  counts.images = read_count(in, kMaxBootImages);
  counts.pages = read_count(in, kMaxBootPages);
  counts.chunks = read_count(in, kMaxBootChunks);
  return counts;
}

void write_places(const std::vector<BootPlace>& places, ByteWriter& out) {
  for (const BootPlace& place : places) out.u64(place.number << 8U | place.image);
}

std::vector<BootPlace> read_places(ByteReader& in, std::size_t count, std::size_t images, std::uint64_t unit,
                                   bool may_be_unused) {
  std::vector<BootPlace> out;
  out.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t value = in.u64();
    const BootPlace place{static_cast<std::uint8_t>(value & 0xffU), value >> 8U};
    if (may_be_unused && place == kUnusedPlace) {
      out.push_back(place);
      continue;
    }
    if (place.image >= images) fail("it refers to an image that it does not name");
    if (place.number >= kMaxImageSize / unit) fail("it has a place beyond the largest image");
    out.push_back(place);
  }
  return out;
}

BootImage read_image(ByteReader& in) {
  const std::string_view field = as_text(in.take(kMaxBootImageName));
  BootImage image;
  image.name = field.substr(0, field.find('\0'));
  if (image.name.empty() || field.find_first_not_of('\0', image.name.size()) != std::string_view::npos) {
    fail("an image's name is malformed");
  }
  image.root = in.fixed<Sha256>();
  return image;
}

}  // namespace

Bytes encode_boot_head(const BootHead& head) {
  const BootOrder& order = head.order;
  if (head.images.size() > kMaxBootImages || order.pages.size() > kMaxBootPages ||
      order.chunks.size() > kMaxBootChunks) {
    throw Error(ErrorKind::kBug, "a boot pack out of bounds");
  }
  ByteWriter out;
  out.put(as_bytes(kMagic)).u32(kVersion).u32(static_cast<std::uint32_t>(head.images.size()));
  out.u32(static_cast<std::uint32_t>(order.pages.size())).u32(static_cast<std::uint32_t>(order.chunks.size()));
  for (const BootImage& image : head.images) {
    if (image.name.empty() || image.name.size() > kMaxBootImageName)
      throw Error(ErrorKind::kBug, "a boot pack's image name");
    out.put(as_bytes(image.name)).put(Bytes(kMaxBootImageName - image.name.size())).put(image.root.view());
  }
  write_places(order.pages, out);
  write_places(order.chunks, out);
  Bytes bytes = out.take();
  bytes.resize(rounded_up(bytes.size()));
  return bytes;
}

std::size_t boot_head_size(ByteView beginning) {
  ByteReader in(beginning, "a boot pack");
  return read_counts(in).head_size();
}

BootHead parse_boot_head(ByteView head, std::uint64_t pack_size) {
  ByteReader in(head, "a boot pack");
  const Counts counts = read_counts(in);
  if (head.size() != counts.head_size()) fail("its head has a wrong length");
  if (pack_size != head.size() + std::uint64_t{counts.pages} * kBootPageSize)
    fail("its length does not match its pages");
  BootHead out;
  for (std::uint32_t i = 0; i < counts.images; ++i) out.images.push_back(read_image(in));
  out.order.pages = read_places(in, counts.pages, counts.images, kBootPageSize, /*may_be_unused=*/true);
  out.order.chunks = read_places(in, counts.chunks, counts.images, kChunkSize, /*may_be_unused=*/false);
  if (!is_zero(in.rest())) fail("its padding is not zero");
  return out;
}

}  // namespace isr
