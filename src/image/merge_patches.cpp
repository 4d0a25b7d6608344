#include "image/merge_patches.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/thread_pool.h"
#include "image/patch_writer.h"
#include "image/seal_objects.h"

namespace isr {
namespace {

constexpr std::size_t kManyPatches = 8;
constexpr std::size_t kMergedAtOnce = 4;
constexpr std::uint64_t kMostMergedBytes = 64U << 20U;
constexpr std::size_t kFoldFrom = kMaxPatches / 2;  // patches; from here on the tree takes the oldest, if it can
constexpr std::ptrdiff_t kFoldedAtOnce = 8;         // patches
constexpr std::size_t kSealedAtOnce = 256;          // chunks: bounds memory

void check_stop(const SealContext& context) {
  if (context.stop.stop_requested()) throw Error(ErrorKind::kCancelled, "sealing was stopped");
}

std::uint64_t size_of(std::span<const TreeRoot> patches) {
  return std::accumulate(patches.begin(), patches.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const TreeRoot& patch) { return sum + patch.size; });
}

/// The positions of neighbours that may be put together, those first that are smallest together: so a large patch is
/// left alone while there are small ones.
std::vector<std::size_t> by_size(std::span<const TreeRoot> patches) {
  std::vector<std::size_t> places(patches.size() - kMergedAtOnce + 1);
  std::iota(places.begin(), places.end(), 0);
  const auto size = [&](std::size_t at) { return size_of(patches.subspan(at, kMergedAtOnce)); };
  std::stable_sort(places.begin(), places.end(), [&](std::size_t a, std::size_t b) { return size(a) < size(b); });
  // The more there are, the more it is worth to have fewer.
  const std::uint64_t most = kMostMergedBytes * (patches.size() - kManyPatches);
  std::erase_if(places, [&](std::size_t at) { return size(at) > most; });
  return places;
}

/// Chunks that any of these patches clears, in order and disjoint.
std::vector<ChunkRun> cleared_by(const std::vector<PatchIndex::PatchPtr>& patches) {
  std::vector<ChunkRun> all;
  for (const auto& patch : patches) {
    all.insert(all.end(), patch->table.cleared.begin(), patch->table.cleared.end());
  }
  std::sort(all.begin(), all.end(), [](const ChunkRun& a, const ChunkRun& b) { return a.first < b.first; });
  std::vector<ChunkRun> merged;
  for (const ChunkRun& run : all) {
    if (merged.empty() || run.first > merged.back().end()) {
      merged.push_back(run);
    } else {
      merged.back().count = std::max(merged.back().end(), run.end()) - merged.back().first;
    }
  }
  return merged;
}

std::uint64_t data_bytes(const PatchIndex& index) {
  std::uint64_t sum = 0;
  for (const PatchIndex::Run& run : index.runs()) {
    if (run.patch != PatchIndex::Run::kZeros) sum += run.length;
  }
  return sum;
}

void copy_runs(const SealContext& context, const PatchIndex& index, PatchWriter& to) {
  Bytes bytes;
  for (const PatchIndex::Run& run : index.runs()) {
    if (run.patch == PatchIndex::Run::kZeros) {
      to.add_zeros(run.offset, run.length);
      continue;
    }
    for (std::uint32_t done = 0; done < run.length;) {
      check_stop(context);
      const auto part = static_cast<std::uint32_t>(std::min<std::size_t>(run.length - done, kChunkSize));
      bytes.resize(part);
      index.read(*context.reader, {run.offset + done, run.position + done, part, run.patch}, bytes,
                 {.whole_chunks = true, .priority = Priority::kUpload, .stop = context.stop});
      to.add(run.offset + done, bytes);
      done += part;
    }
  }
}

/// Puts the neighbours from `at` on together. Returns false when they are not on this host, or are too much for one.
bool merge_at(std::size_t at, const SealContext& context, PatchedTree& content, std::vector<NewPatch>& made) {
  const auto first = content.patches.begin() + static_cast<std::ptrdiff_t>(at);
  const auto end = first + kMergedAtOnce;
  const bool has_older = end != content.patches.end();
  NewPatch merged;
  PatchWriter writer(context.domain_secret, context.threads, [&](const SealedObject& object) {
    put_object(context, object);
    merged.objects.push_back({object.ref.cid, object.ref.length});
  });
  try {
    const BaseContent window{PatchedTree(content.tree, {first, end})};
    const PatchIndex& index = window.index(*context.reader, Priority::kUpload, context.stop);
    std::vector<ChunkRun> cleared;
    if (has_older) cleared = cleared_by(index.patches());
    if (index.runs().size() > kMaxPatchRuns / 2 || cleared.size() > kMaxClearedRuns / 2) return false;
    if (data_bytes(index) > kMaxPatchData) return false;
    copy_runs(context, index, writer);
    for (const ChunkRun& run : cleared) writer.clear(run);
  } catch (const Error& error) {
    if (!is_of_a_source(error.kind())) throw;
    return false;
  }
  const auto place = content.patches.erase(first, end);
  if (writer.empty()) return true;
  merged.patch = writer.finish();
  content.patches.insert(place, merged.patch);
  made.push_back(std::move(merged));
  return true;
}

bool merge_some(const SealContext& context, PatchedTree& content, std::vector<NewPatch>& made) {
  const std::vector<std::size_t> places = by_size(content.patches);
  return std::any_of(places.begin(), places.end(),
                     [&](std::size_t at) { return merge_at(at, context, content, made); });
}

/// The chunks that the tree takes from patches.
struct ToFold {
  std::vector<std::uint64_t> chunks;  ///< to be sealed; in order
  std::vector<ChunkRun> zeros;        ///< all zeros; in order
};

/// Adds what is left of a run of chunks without the cleared ones, which are in order.
void add_without(const std::vector<ChunkRun>& cleared, ChunkRun run, std::vector<ChunkRun>& to) {
  auto at = std::upper_bound(cleared.begin(), cleared.end(), run.first,
                             [](std::uint64_t chunk, const ChunkRun& clears) { return chunk < clears.end(); });
  for (const std::uint64_t end = run.end(); run.first < end; ++at) {
    const bool is_last = at == cleared.end() || at->first >= end;
    const std::uint64_t until = is_last ? end : std::max(at->first, run.first);
    if (run.first < until) to.push_back({run.first, until - run.first});
    if (is_last) return;
    run.first = at->end();
  }
}

/// The bytes of patches in order; runs of zeros that touch are one.
struct Stretch {
  std::uint64_t offset = 0, end = 0;
  bool is_zeros = false;
};

std::vector<Stretch> stretches_of(const PatchIndex& patches) {
  std::vector<Stretch> out;
  for (const PatchIndex::Run& run : patches.runs()) {
    const bool is_zeros = run.patch == PatchIndex::Run::kZeros;
    if (is_zeros && !out.empty() && out.back().is_zeros && out.back().end == run.offset) {
      out.back().end = run.end();
    } else {
      out.push_back({run.offset, run.end(), is_zeros});
    }
  }
  return out;
}

/// Leaves out the chunks that a newer patch clears: of these, the tree has newer bytes.
ToFold chunks_to_fold(const PatchIndex& oldest, const std::vector<ChunkRun>& cleared, std::uint64_t image_size) {
  ToFold out;
  std::vector<ChunkRun> sealed;
  const auto add_sealed = [&](std::uint64_t first, std::uint64_t end) {
    if (first < end) add_without(cleared, {first, end - first}, sealed);
  };
  for (const Stretch& stretch : stretches_of(oldest)) {
    const std::uint64_t first = stretch.offset / kChunkSize;
    const std::uint64_t end = chunk_count(stretch.end);
    const std::uint64_t first_whole = chunk_count(stretch.offset);
    const std::uint64_t whole_end = stretch.end == image_size ? end : stretch.end / kChunkSize;
    if (!stretch.is_zeros || first_whole >= whole_end) {
      add_sealed(first, end);
      continue;
    }
    add_sealed(first, first_whole);
    add_without(cleared, {first_whole, whole_end - first_whole}, out.zeros);
    add_sealed(whole_end, end);
  }
  for (const ChunkRun& run : sealed) {
    for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk) {
      if (out.chunks.empty() || out.chunks.back() < chunk) out.chunks.push_back(chunk);
    }
  }
  return out;
}

/// Puts the oldest patches into the tree: seals every chunk of which they have bytes.
void fold_oldest(const SealContext& context, ChunkReader& reader, PatchedTree& content,
                 std::vector<ClearRef>& new_objects) {
  const auto first = content.patches.end() - kFoldedAtOnce;
  const BaseContent newer{PatchedTree(content.tree, {content.patches.begin(), first})};
  const BaseContent oldest{PatchedTree(content.tree, {first, content.patches.end()})};
  const auto cleared = cleared_by(newer.index(reader, Priority::kUpload, context.stop).patches());
  const ToFold fold = chunks_to_fold(oldest.index(reader, Priority::kUpload, context.stop), cleared, content.size());
  // Fails before anything is sealed in vain.
  const auto require_page = [&](std::uint64_t chunk) {
    find_chunk(reader, content.tree, chunk, Priority::kUpload, context.stop);
  };
  for (const std::uint64_t chunk : fold.chunks) require_page(chunk);
  for (const ChunkRun& run : fold.zeros) {
    require_page(run.first);
    require_page(run.end() - 1);
  }
  std::vector<ClearRef> objects;
  std::map<std::uint64_t, ChunkRef> changes;
  for (std::span<const std::uint64_t> rest = fold.chunks; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), kSealedAtOnce));
    rest = rest.subspan(some.size());
    std::vector<ChunkRef> refs(some.size());
    parallel_for(some.size(), context.threads, [&](std::size_t i) {
      check_stop(context);
      Bytes plaintext(kChunkSize);
      oldest.read(reader, some[i] * kChunkSize, plaintext,
                  {.whole_chunks = true, .priority = Priority::kUpload, .stop = context.stop});
      refs[i] = put_sealed(context, plaintext);
    });
    for (std::size_t i = 0; i < some.size(); ++i) {
      changes.emplace(some[i], refs[i]);
      if (!refs[i].is_zero()) objects.push_back({refs[i].cid, refs[i].length});
    }
  }
  const auto emit = [&](const SealedObject& page) {
    put_object(context, page);
    objects.push_back({page.ref.cid, page.ref.length});
  };
  content.tree = update_tree(reader, content.tree, changes, context.domain_secret, emit, fold.zeros);
  content.patches.erase(first, content.patches.end());
  new_objects.insert(new_objects.end(), objects.begin(), objects.end());
}

}  // namespace

void bound_patches(const SealContext& context, PatchedTree& content, std::vector<NewPatch>& made,
                   std::vector<ClearRef>& new_objects) {
  while (content.patches.size() > kManyPatches && merge_some(context, content, made)) {
  }
  while (content.patches.size() > kFoldFrom) {
    const bool must = content.patches.size() > kMaxPatches;
    try {
      fold_oldest(context, must && context.fetching ? *context.fetching : *context.reader, content, new_objects);
    } catch (const Error& error) {
      if (must || !is_of_a_source(error.kind())) throw;
      return;
    }
  }
}

}  // namespace isr
