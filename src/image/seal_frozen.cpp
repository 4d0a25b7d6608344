// Each changed chunk is sealed whole, or the bytes of it that changed go into a patch. A chunk that is sealed whole
// clears the older patches of it. When the tree cannot be updated with what is on this host, all changes go into the
// patch.

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "base/thread_pool.h"
#include "image/merge_patches.h"
#include "image/patch_writer.h"
#include "image/seal_objects.h"

namespace isr {
namespace {

constexpr std::size_t kSealedAtOnce = 256;  // chunks: bounds memory
constexpr std::size_t kPage = 4096;         // bytes that are as before are left out in these units
// An index of so many runs takes 3 MiB. Beyond it, a change seals all of its chunk, which clears the patches of it.
constexpr std::size_t kManyRuns = 1U << 17U;
constexpr std::size_t kManyRunsOfAChunk = 512;

/// A changed chunk as it is sealed.
struct Outcome {
  ChunkRef before;                ///< in the tree; meaningless when `whole` is absent
  std::optional<ChunkRef> whole;  ///< else `runs`
  std::vector<Extent> runs;       ///< in the image
  Bytes bytes;                    ///< the chunk's, of which the runs count
};

class FrozenSealer {
 public:
  FrozenSealer(const SealContext& context, FrozenChanges& frozen, const BaseContent& base, bool patch_only)
      : context_(context),
        frozen_(frozen),
        base_(base),
        patch_only_(patch_only),
        reader_(!context.may_patch && context.fetching ? *context.fetching : *context.reader),
        is_fresh_(base.tree().is_zero()),
        dirty_(frozen.frozen_chunks()),
        content_(base.tree()),
        patch_(make_writer()) {
    if (content_.patches.empty()) return;
    try {
      index_ = &base_.index(*context_.reader, Priority::kUpload, context_.stop);
      runs_ = index_->runs().size();
    } catch (const Error& error) {
      if (!is_of_a_source(error.kind())) throw;
      knows_patches_ = false;
    }
  }

  void seal_changes() {
    const std::vector<std::uint64_t> chunks(dirty_.chunks.begin(), dirty_.chunks.end());
    for (std::span<const std::uint64_t> rest = chunks; !rest.empty();) {
      const auto some = rest.first(std::min(rest.size(), kSealedAtOnce));
      seal_some(some);
      rest = rest.subspan(some.size());
    }
    take_zeros_before(~std::uint64_t{0});
    finish_patch();
    update_tree();
  }

  SealedImage finish() {
    result_.unfolded = content_.tree;
    if (!new_patches_.empty()) bound_patches(context_, content_, new_patches_, result_.new_objects);
    for (const NewPatch& made : new_patches_) {
      if (std::find(content_.patches.begin(), content_.patches.end(), made.patch) == content_.patches.end()) continue;
      result_.new_objects.insert(result_.new_objects.end(), made.objects.begin(), made.objects.end());
    }
    result_.content = content_;
    objects_.sync();
    return std::move(result_);
  }

 private:
  PatchWriter make_writer() {
    return PatchWriter(context_.domain_secret, context_.threads, [this](const SealedObject& object) {
      put_object(context_, object);
      patch_objects_.push_back({object.ref.cid, object.ref.length});
    });
  }

  void seal_some(std::span<const std::uint64_t> chunks) {
    std::vector<Outcome> outcomes(chunks.size());
    parallel_for(chunks.size(), context_.threads, [&](std::size_t i) { outcomes[i] = seal_chunk_of(chunks[i]); });
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      take_zeros_before(chunks[i]);
      take(chunks[i], outcomes[i]);
    }
  }

  bool may_go_into_a_patch(const Error& error) const { return context_.may_patch && is_of_a_source(error.kind()); }

  /// Absent when a page above the chunk is not on this host.
  std::optional<ChunkRef> before(std::uint64_t chunk) const {
    if (is_fresh_) return ChunkRef{};
    if (patch_only_) return std::nullopt;
    try {
      return find_chunk(reader_, content_.tree, chunk, Priority::kUpload, context_.stop);
    } catch (const Error& error) {
      if (!may_go_into_a_patch(error)) throw;
      return std::nullopt;
    }
  }

  Access access() const { return {.whole_chunks = true, .priority = Priority::kUpload, .stop = context_.stop}; }

  /// True also when it is not known.
  bool has_patches(std::uint64_t first_chunk, std::uint64_t count) const {
    return !knows_patches_ || (index_ != nullptr && index_->touches(first_chunk * kChunkSize, count * kChunkSize));
  }

  Outcome seal_chunk_of(std::uint64_t chunk) {
    Outcome out;
    const auto reference = before(chunk);
    const auto replaced = frozen_.frozen_replaced(chunk);
    out.before = reference.value_or(ChunkRef{});
    if (reference && replaced && !frozen_.frozen_has_bytes(chunk)) {
      out.whole = replaced;
      return out;
    }
    out.bytes.resize(kChunkSize);
    std::vector<Extent> gaps = frozen_.read_frozen(chunk * kChunkSize, out.bytes);
    if (replaced) {
      fill(gaps, chunk, *replaced, out.bytes);
      gaps.clear();
    }
    std::optional<Bytes> rest;
    if (reference && !gaps.empty()) rest = read_base(chunk);
    out.runs = runs_between(gaps, chunk);
    if (rest) {
      out.runs = changed(out.runs, chunk, out.bytes, *rest);
      if (out.runs.empty()) return out;
    }
    if (!reference || (!gaps.empty() && !rest)) return out;
    for (const Extent& gap : gaps) {
      const auto within = static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize);
      std::copy_n(rest->begin() + within, gap.length, out.bytes.begin() + within);
    }
    if (!is_zero(out.bytes) && !is_better_whole(out.runs)) return out;
    out.whole = put_sealed(context_, out.bytes);
    out.bytes = {};
    return out;
  }

  bool is_better_whole(const std::vector<Extent>& runs) const {
    if (is_fresh_ || !context_.may_patch || runs_ > kManyRuns || runs.size() > kManyRunsOfAChunk) return true;
    std::uint64_t sum = 0;
    for (const Extent& run : runs) sum += run.length;
    return sum >= kMuchOfAChunk;
  }

  void fill(const std::vector<Extent>& gaps, std::uint64_t chunk, const ChunkRef& ref, MutableBytes out) const {
    for (const Extent& gap : gaps) {
      const std::size_t within = gap.offset - chunk * kChunkSize;
      read_reference(reader_, ref, within, out.subspan(within, gap.length), access());
    }
  }

  /// Returns the bytes of a chunk in the base, or nullopt when they are not on this host.
  std::optional<Bytes> read_base(std::uint64_t chunk) const {
    if (!knows_patches_) return std::nullopt;
    Bytes bytes(kChunkSize);
    try {
      base_.read(reader_, chunk * kChunkSize, bytes, access());
      return bytes;
    } catch (const Error& error) {
      if (!may_go_into_a_patch(error)) throw;
      return std::nullopt;
    }
  }

  /// The bytes of a chunk outside the gaps, up to the end of the image.
  std::vector<Extent> runs_between(const std::vector<Extent>& gaps, std::uint64_t chunk) const {
    std::vector<Extent> runs;
    std::uint64_t at = chunk * kChunkSize;
    const std::uint64_t end = std::min(at + kChunkSize, content_.size());
    const auto add_until = [&](std::uint64_t to) {
      if (at < to) runs.push_back({at, to - at});
    };
    for (const Extent& gap : gaps) {
      add_until(std::min(gap.offset, end));
      at = gap.end();
    }
    add_until(end);
    return runs;
  }

  /// Leaves out the pages in which nothing differs.
  static std::vector<Extent> changed(const std::vector<Extent>& runs, std::uint64_t chunk, ByteView now,
                                     ByteView before) {
    std::vector<Extent> out;
    for (const Extent& run : runs) {
      for (std::uint64_t at = run.offset; at < run.end();) {
        const std::uint64_t end = std::min(run.end(), (at / kPage + 1) * kPage);
        const std::size_t within = at - chunk * kChunkSize;
        if (!std::equal(now.begin() + static_cast<std::ptrdiff_t>(within),
                        now.begin() + static_cast<std::ptrdiff_t>(within + (end - at)),
                        before.begin() + static_cast<std::ptrdiff_t>(within))) {
          if (!out.empty() && out.back().end() == at) {
            out.back().length += end - at;
          } else {
            out.push_back({at, end - at});
          }
        }
        at = end;
      }
    }
    return out;
  }

  void take(std::uint64_t chunk, const Outcome& outcome) {
    if (!outcome.whole) {
      if (!outcome.runs.empty()) result_.patched.push_back(chunk);
      runs_ += outcome.runs.size();
      for (const Extent& run : outcome.runs) {
        patch_.add(run.offset, ByteView(outcome.bytes).subspan(run.offset - chunk * kChunkSize, run.length));
      }
      if (patch_.is_full()) finish_patch();
      return;
    }
    result_.chunks.push_back({chunk, *outcome.whole});
    if (has_patches(chunk, 1)) clear({chunk, 1});
    if (*outcome.whole != outcome.before) changes_.emplace(chunk, *outcome.whole);
  }

  void clear(const ChunkRun& run) {
    patch_.clear(run);
    if (patch_.is_full()) finish_patch();
  }

  /// Takes the runs of zeros that begin before a chunk.
  void take_zeros_before(std::uint64_t chunk) {
    for (; zeros_taken_ < dirty_.zeros.size() && dirty_.zeros[zeros_taken_].first < chunk; ++zeros_taken_) {
      const ChunkRun& run = dirty_.zeros[zeros_taken_];
      // Only the pages at both ends of a run are needed to update the tree.
      if (before(run.first) && before(run.end() - 1)) {
        tree_zeros_.push_back(run);
        if (has_patches(run.first, run.count)) clear(run);
      } else {
        const std::uint64_t offset = run.first * kChunkSize;
        patch_.add_zeros(offset, std::min(run.end() * kChunkSize, content_.size()) - offset);
        if (patch_.is_full()) finish_patch();
      }
    }
  }

  void finish_patch() {
    if (patch_.empty()) return;
    content_.patches.insert(content_.patches.begin(), patch_.finish());
    new_patches_.push_back({content_.patches.front(), std::exchange(patch_objects_, {})});
    patch_ = make_writer();
  }

  void update_tree() {
    for (const auto& [chunk, ref] : changes_) {
      if (ref.is_zero()) continue;
      if (context_.sweep != nullptr) context_.sweep->keep(ref.cid);  // it may have been settled before
      result_.new_objects.push_back({ref.cid, ref.length});
    }
    if (changes_.empty() && tree_zeros_.empty()) return;
    const auto emit = [&](const SealedObject& page) {
      put_object(context_, page);
      result_.new_objects.push_back({page.ref.cid, page.ref.length});
    };
    content_.tree = isr::update_tree(reader_, content_.tree, changes_, context_.domain_secret, emit, tree_zeros_);
  }

  const SealContext& context_;
  ObjectsToSync objects_{context_.settled};
  FrozenChanges& frozen_;
  const BaseContent& base_;
  bool patch_only_;
  ChunkReader& reader_;
  bool is_fresh_;  ///< the base is all zeros: there is nothing to leave out
  DirtyChunks dirty_;
  const PatchIndex* index_ = nullptr;  ///< null: the base has no patches, or their tables are not here
  bool knows_patches_ = true;          ///< false: their tables are not here
  std::size_t runs_ = 0;               ///< in the base's patches and the new ones
  PatchedTree content_;
  std::vector<ClearRef> patch_objects_;  ///< of patch_
  PatchWriter patch_;
  std::vector<NewPatch> new_patches_;
  std::map<std::uint64_t, ChunkRef> changes_;
  std::vector<ChunkRun> tree_zeros_;
  std::size_t zeros_taken_ = 0;
  SealedImage result_;
};

}  // namespace

SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const BaseContent& base) {
  auto sealer = std::make_unique<FrozenSealer>(context, frozen, base, /*patch_only=*/false);
  try {
    sealer->seal_changes();
  } catch (const Error& error) {
    if (!context.may_patch || !is_of_a_source(error.kind())) throw;
    sealer = std::make_unique<FrozenSealer>(context, frozen, base, /*patch_only=*/true);
    sealer->seal_changes();
  }
  return sealer->finish();
}

SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const PatchedTree& base) {
  return seal_frozen(context, frozen, BaseContent(base));
}

}  // namespace isr
