#pragma once

#include "base/file.h"
#include "chunkstore/stack.h"
#include "image/replayed_records.h"
#include "image/scratch_overlay.h"
#include "image/snapshot.h"
#include "image/tree_builder.h"
#include "support/bytes.h"

namespace isr::test {

inline Key domain_secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

/// A journal, the overlay that was replayed from it, the image over both.
struct OpenedImage {
  OpenedImage(const fs::path& journal_directory, const PatchedTree& base, std::uint64_t void_below,
              const std::shared_ptr<ChunkReader>& reader) {
    ReplayedRecords replayed({{std::uint16_t{0}, void_below}});
    journal = std::make_shared<Journal>(journal_directory, hkdf_sha256(as_bytes("device"), {}, "test"),
                                        [&](const ReplayedRecord& record) { replayed.add(record); });
    journal->raise_sequence(void_below);
    overlay = std::make_shared<JournalOverlay>(journal, std::uint16_t{0});
    replayed.give(0, *overlay);
    image = std::make_shared<Image>("disk", base, reader, overlay);
  }
  OpenedImage() = default;

  std::shared_ptr<Journal> journal;
  std::shared_ptr<JournalOverlay> overlay;
  std::shared_ptr<Image> image;
};

/// A session's parts without a session: a settled store, a journal, one image.
struct ImageBench : OpenedImage {
  explicit ImageBench(const fs::path& where, const PatchedTree& at, std::uint64_t void_records_below = 0)
      : directory(where), base(at), void_below(void_records_below) {
    PackStoreOptions options;
    options.durable = true;
    settled = open_pack_store(directory / "settled", options);
    reader = std::make_shared<ChunkReader>(open_stack({settled_tier(settled)}, stats), ReaderOptions{1U << 20U, 16, 2});
    open();
  }

  void open() {
    static_cast<OpenedImage&>(*this) = {};
    static_cast<OpenedImage&>(*this) = OpenedImage(directory / "journal", base, void_below, reader);
  }

  SealContext context() { return {reader, *settled, domain_secret(), 2}; }

  /// What a session does; `save` is told the base and boundary before anything is dropped.
  template <class Save>
  void publish(Save save) {
    const std::uint64_t boundary = overlay->freeze();
    journal->sync();
    const SealedImage sealed = seal_frozen(context(), *overlay, base);
    overlay->absorb_frozen(sealed.chunks, boundary);
    base = sealed.content;
    void_below = boundary;
    save();
    image->adopt(base, [&] { overlay->forget_below(boundary); });
    journal->collect();
  }

  void publish() {
    publish([] {});
  }

  /// A publish that fails once all is sealed; settling goes on meanwhile.
  void seal_without_sending() {
    const std::uint64_t boundary = overlay->freeze();
    journal->sync();
    journal->roll();
    settle_to(0);
    overlay->absorb_frozen(seal_frozen(context(), *overlay, base).chunks, boundary);
  }

  void settle_to(std::uint64_t target_bytes) { settle_into(*settled, target_bytes); }
  void settle_into(PackStore& store, std::uint64_t target_bytes) {
    SettleImage one{*overlay, image};
    while (journal->size_bytes() > target_bytes) {
      if (settle_some({reader, store, domain_secret(), 2}, *journal, {&one, 1}) == 0) return;
    }
  }

  fs::path directory;
  SourceStats stats;
  std::shared_ptr<PackStore> settled;
  std::shared_ptr<ChunkReader> reader;
  PatchedTree base;
  std::uint64_t void_below = 0;
};

/// A block of 4 KiB that says who wrote it: bytes that follow from a number, so
/// that a mixture of two writes shows. Stamp 0 is a block of zeros.
inline constexpr std::size_t kStampBlock = 4096;
inline void put_stamp(std::uint64_t block, std::uint64_t stamp, MutableBytes out) {
  for (std::size_t i = 0; i < kStampBlock; i += 16) {
    const std::uint64_t first = stamp == 0 ? 0 : stamp;
    const std::uint64_t second = stamp == 0 ? 0 : block;
    std::memcpy(out.data() + i, &first, 8);
    std::memcpy(out.data() + i + 8, &second, 8);
  }
}
/// nullopt: not one whole stamp of this block.
inline std::optional<std::uint64_t> stamp_of(std::uint64_t block, ByteView bytes) {
  std::uint64_t stamp = 0;
  std::memcpy(&stamp, bytes.data(), 8);
  Bytes expected(kStampBlock);
  put_stamp(block, stamp, expected);
  if (!std::equal(expected.begin(), expected.end(), bytes.begin(), bytes.end())) return std::nullopt;
  return stamp;
}

}  // namespace isr::test
