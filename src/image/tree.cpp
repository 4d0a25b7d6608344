// A tree of pages of 256 references. Level 0 pages refer to chunks, level k pages to pages of level k-1. The image's
// size determines the number of levels, so a page need not state its level. A page in the wrong place cannot be
// reached, because references carry the digest of the object.

#include "image/tree.h"

#include <algorithm>

#include "base/error.h"

namespace isr {
namespace {

/// The number of chunks below one reference of a page at `level`.
constexpr std::uint64_t reach(unsigned level) { return 1ULL << (8U * level); }

class TreeUpdate {
 public:
  TreeUpdate(ChunkReader& reader, const std::map<std::uint64_t, ChunkRef>& changes, std::span<const ChunkRun> zeros,
             std::uint64_t count, const Key& domain_secret, const EmitObject& emit)
      : reader_(reader), changes_(changes), zeros_(zeros), count_(count), domain_secret_(domain_secret), emit_(emit) {}

  /// Rewrites the page at `level` whose first chunk is `first`, with the changes below it.
  ChunkRef rewrite(const ChunkRef& page, unsigned level, std::uint64_t first) {
    const std::uint64_t end = std::min(first + reach(level + 1), count_);
    if (first >= end) return page;
    if (is_zeroed(first, end)) return {};
    if (!is_changed(first, end) && (page.is_zero() || !touches_zeros(first, end))) return page;
    std::vector<ChunkRef> refs(kReferencesPerPage);
    if (!page.is_zero()) refs = *reader_.read_page(page, Priority::kUpload);
    const std::vector<ChunkRef> before = refs;
    for (std::size_t slot = 0; slot < kReferencesPerPage; ++slot) {
      const std::uint64_t slot_first = first + slot * reach(level);
      refs[slot] = level == 0 ? leaf(refs[slot], slot_first) : rewrite(refs[slot], level - 1, slot_first);
    }
    if (refs == before) return page;
    const SealedObject sealed = seal_page(refs, domain_secret_);
    if (!sealed.ref.is_zero()) emit_(sealed);
    return sealed.ref;
  }

 private:
  ChunkRef leaf(const ChunkRef& before, std::uint64_t chunk) const {
    if (const auto it = changes_.find(chunk); it != changes_.end()) return it->second;
    return chunk < count_ && is_zeroed(chunk, chunk + 1) ? ChunkRef{} : before;
  }
  bool is_changed(std::uint64_t first, std::uint64_t end) const {
    const auto it = changes_.lower_bound(first);
    return it != changes_.end() && it->first < end;
  }
  /// The first run that does not end before `chunk`.
  std::span<const ChunkRun>::iterator run_at(std::uint64_t chunk) const {
    return std::upper_bound(zeros_.begin(), zeros_.end(), chunk,
                            [](std::uint64_t c, const ChunkRun& run) { return c < run.end(); });
  }
  bool touches_zeros(std::uint64_t first, std::uint64_t end) const {
    const auto run = run_at(first);
    return run != zeros_.end() && run->first < end;
  }
  bool is_zeroed(std::uint64_t first, std::uint64_t end) const {
    const auto run = run_at(first);
    return run != zeros_.end() && run->first <= first && run->end() >= end;
  }

  ChunkReader& reader_;
  const std::map<std::uint64_t, ChunkRef>& changes_;
  std::span<const ChunkRun> zeros_;
  std::uint64_t count_;
  const Key& domain_secret_;
  const EmitObject& emit_;
};

using VisitRef = std::function<void(std::uint64_t, const ChunkRef&)>;

/// Visits the nonzero references of a page, with the first chunk of each.
void visit_page(ChunkReader& reader, const ChunkRef& page, unsigned level, std::uint64_t first, std::uint64_t count,
                const VisitRef& visit, Priority priority, const std::stop_token& stop) {
  const PageData refs = reader.read_page(page, priority, stop);
  for (std::size_t slot = 0; slot < refs->size(); ++slot) {
    const ChunkRef& ref = (*refs)[slot];
    const std::uint64_t chunk = first + slot * reach(level);
    if (ref.is_zero()) continue;
    if (chunk >= count) throw Error(ErrorKind::kCorrupt, "an image tree has chunks beyond the image's end");
    visit(chunk, ref);
  }
}

void visit_leaves(ChunkReader& reader, const ChunkRef& page, unsigned level, std::uint64_t first, std::uint64_t count,
                  const VisitRef& visit, Priority priority, const std::stop_token& stop) {
  if (level == 0) {
    visit(first, page);
    return;
  }
  const auto visit_below = [&](std::uint64_t chunk, const ChunkRef& below) {
    visit_leaves(reader, below, level - 1, chunk, count, visit, priority, stop);
  };
  visit_page(reader, page, level, first, count, visit_below, priority, stop);
}

void visit_differences(ChunkReader& reader, const ChunkRef& before, const ChunkRef& after, unsigned levels,
                       std::uint64_t first, const VisitDifference& visit) {
  if (before == after) return;
  if (levels == 0) {
    visit(first, before, after);
    return;
  }
  const auto references = [&](const ChunkRef& page) {
    return page.is_zero() ? std::make_shared<const std::vector<ChunkRef>>(kReferencesPerPage)
                          : reader.read_page(page, Priority::kUpload);
  };
  const PageData old_refs = references(before);
  const PageData new_refs = references(after);
  for (std::size_t slot = 0; slot < kReferencesPerPage; ++slot) {
    visit_differences(reader, (*old_refs)[slot], (*new_refs)[slot], levels - 1, first + slot * reach(levels - 1),
                      visit);
  }
}

}  // namespace

unsigned tree_levels(std::uint64_t size_bytes) {
  if (size_bytes > kMaxImageSize) throw Error(ErrorKind::kCorrupt, "an image larger than 16 TiB");
  unsigned levels = 1;
  while (reach(levels) < chunk_count(size_bytes)) ++levels;
  return levels;
}

ChunkRef find_chunk(ChunkReader& reader, const TreeRoot& tree, std::uint64_t index, Priority priority,
                    const std::stop_token& stop) {
  ChunkRef ref = tree.root;
  for (unsigned level = tree_levels(tree.size); level-- > 0 && !ref.is_zero();) {
    const PageData page = reader.read_page(ref, priority, stop);
    ref = (*page)[(index / reach(level)) % kReferencesPerPage];
  }
  return ref;
}

TreeRoot update_tree(ChunkReader& reader, const TreeRoot& base, const std::map<std::uint64_t, ChunkRef>& changes,
                     const Key& domain_secret, const EmitObject& emit, std::span<const ChunkRun> zeros) {
  const std::uint64_t count = chunk_count(base.size);
  if ((!changes.empty() && changes.rbegin()->first >= count) || (!zeros.empty() && zeros.back().end() > count)) {
    throw Error(ErrorKind::kBug, "a changed chunk beyond the image's end");
  }
  TreeUpdate update(reader, changes, zeros, count, domain_secret, emit);
  return {base.size, update.rewrite(base.root, tree_levels(base.size) - 1, 0)};
}

void for_each_difference(ChunkReader& reader, const TreeRoot& before, const TreeRoot& after,
                         const VisitDifference& visit) {
  if (before.size != after.size) throw Error(ErrorKind::kBug, "trees of different sizes cannot be compared");
  visit_differences(reader, before.root, after.root, tree_levels(before.size), 0, visit);
}

void for_each_leaf(ChunkReader& reader, const TreeRoot& tree, const VisitRef& visit, Priority priority,
                   const std::stop_token& stop) {
  if (tree.root.is_zero()) return;
  visit_leaves(reader, tree.root, tree_levels(tree.size) - 1, 0, chunk_count(tree.size), visit, priority, stop);
}

void for_each_chunk(ChunkReader& reader, const TreeRoot& tree, const VisitRef& visit, Priority priority,
                    const std::stop_token& stop) {
  const auto visit_leaf = [&](std::uint64_t first, const ChunkRef& leaf) {
    visit_page(reader, leaf, 0, first, chunk_count(tree.size), visit, priority, stop);
  };
  for_each_leaf(reader, tree, visit_leaf, priority, stop);
}

}  // namespace isr
