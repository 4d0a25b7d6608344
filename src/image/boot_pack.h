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

/// A page or a chunk of one of several images.
struct BootPlace {
  std::uint8_t image = 0;    ///< its position in a list of images
  std::uint64_t number = 0;  ///< of the page or chunk in it
  friend bool operator==(const BootPlace&, const BootPlace&) = default;
};

/// What a machine read first, in this order.
struct BootOrder {
  std::vector<BootPlace> pages;   ///< of kBootPageSize
  std::vector<BootPlace> chunks;  ///< of kChunkSize
};

/// The image that a pack speaks of: its name, and the digest of its tree's root, by which a pack
/// of other contents is told from the right one.
struct BootImage {
  std::string name;
  Sha256 root;
  friend bool operator==(const BootImage&, const BootImage&) = default;
};

/// What a boot pack says of itself; the bytes of order.pages follow, one page after the other, so
/// that it can be used front to back. docs/formats/boot-pack.md.
struct BootHead {
  std::vector<BootImage> images;
  BootOrder order;
};

/// A multiple of kBootPageSize bytes.
Bytes encode_boot_head(const BootHead& head);
/// How long the head is that begins with these bytes (kBootPageSize of them are enough).
/// Error{kCorrupt} when it is none, or when a count is out of bounds.
std::size_t boot_head_size(ByteView beginning);
/// `head`: exactly boot_head_size() bytes. Error{kCorrupt}: names and images are checked, and that
/// a pack of pack_size bytes has room for its pages and for nothing else.
BootHead parse_boot_head(ByteView head, std::uint64_t pack_size);

}  // namespace isr
