#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"

namespace isr {

inline constexpr std::size_t kBootPageSize = 4096;
inline constexpr std::size_t kMaxBootImages = 16;
inline constexpr std::size_t kMaxBootImageName = 32;
inline constexpr std::size_t kMaxBootPages = 8192;  ///< 32 MiB of contents
inline constexpr std::size_t kMaxBootChunks = 65536;
inline constexpr std::size_t kMaxBootHeadSize = 1U << 20U;
inline constexpr std::size_t kBootPagesInChunk = 32;

/// A page or a chunk in one of several images.
struct BootPlace {
  std::uint8_t image = 0;    ///< its position in a list of images
  std::uint64_t number = 0;  ///< of the page or chunk in the image
  friend bool operator==(const BootPlace&, const BootPlace&) = default;
};
/// Stands for a page of a pack that is in no image now. It is there because a chunk of an older pack was kept as it
/// was.
inline constexpr BootPlace kUnusedPlace{0xff, ~std::uint64_t{0} >> 8U};

/// The pages and chunks that a machine read first, in order.
struct BootOrder {
  std::vector<BootPlace> pages;   ///< pages of kBootPageSize; kUnusedPlace only in a pack
  std::vector<BootPlace> chunks;  ///< chunks of kChunkSize
};

/// An image that a pack refers to: its name, and the digest of its tree's root, which shows whether the pack has the
/// right contents.
struct BootImage {
  std::string name;
  Sha256 root;
  friend bool operator==(const BootImage&, const BootImage&) = default;
};

/// The head of a boot pack. The bytes of order.pages follow, one page after the other, so that the pack can be used
/// front to back. docs/formats/boot-pack.md.
struct BootHead {
  std::vector<BootImage> images;
  BootOrder order;
};

/// The size is a multiple of a chunk, so that each chunk behind it has kBootPagesInChunk pages.
Bytes encode_boot_head(const BootHead& head);
/// The length of the head that begins with these bytes (kBootPageSize of them are enough). Error{kCorrupt} when they
/// are not the begin of a head, or when a count is out of bounds.
std::size_t boot_head_size(ByteView beginning);
/// `head` must have exactly boot_head_size() bytes. Error{kCorrupt} for bad names or images, and unless a pack of
/// pack_size bytes has room for exactly its pages.
BootHead parse_boot_head(ByteView head, std::uint64_t pack_size);

}  // namespace isr
