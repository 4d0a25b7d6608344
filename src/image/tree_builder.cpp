#include "image/tree_builder.h"

#include "base/error.h"

namespace isr {

TreeBuilder::TreeBuilder(std::uint64_t size, const Key& domain_secret, EmitObject emit)
    : size_(size), domain_secret_(domain_secret), emit_(std::move(emit)), open_(tree_levels(size)) {}

ChunkRef TreeBuilder::seal(unsigned level) {
  const SealedObject page = seal_page(open_[level], domain_secret_);
  open_[level].clear();
  if (!page.ref.is_zero()) emit_(page);
  return page.ref;
}

void TreeBuilder::push(unsigned level, const ChunkRef& ref) {
  open_[level].push_back(ref);
  if (open_[level].size() == kReferencesPerPage && level + 1 < open_.size()) push(level + 1, seal(level));
}

void TreeBuilder::add(const ChunkRef& ref) {
  if (added_ == chunk_count(size_)) throw Error(ErrorKind::kBug, "a tree got more chunks than its image has");
  push(0, ref);
  ++added_;
}

void TreeBuilder::add_zeros(std::uint64_t count) {
  while (count > 0) {
    if (open_[0].empty() && count >= kReferencesPerPage && open_.size() > 1) {
      push(1, ChunkRef{});
      added_ += kReferencesPerPage;
      count -= kReferencesPerPage;
    } else {
      add(ChunkRef{});
      --count;
    }
  }
}

TreeRoot TreeBuilder::finish() {
  if (added_ != chunk_count(size_)) throw Error(ErrorKind::kBug, "a tree was finished before all its chunks came");
  for (unsigned level = 0; level + 1 < open_.size(); ++level) {
    if (!open_[level].empty()) push(level + 1, seal(level));
  }
  return {size_, open_.back().empty() ? ChunkRef{} : seal(static_cast<unsigned>(open_.size()) - 1)};
}

}  // namespace isr
