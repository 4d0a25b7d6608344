#pragma once

#include <vector>

#include "image/tree.h"

namespace isr {

/// Builds the tree of a new image from its chunks in order, a page at a time, so that its memory does not grow with the
/// image.
class TreeBuilder {
 public:
  TreeBuilder(std::uint64_t size, const Key& domain_secret, EmitObject emit);
  void add(const ChunkRef& ref);  ///< the next chunk
  void add_zeros(std::uint64_t count);
  /// Call after chunk_count(size) chunks.
  TreeRoot finish();

 private:
  void push(unsigned level, const ChunkRef& ref);
  ChunkRef seal(unsigned level);

  std::uint64_t size_;
  SecretKey domain_secret_;
  EmitObject emit_;
  std::vector<std::vector<ChunkRef>> open_;  // by level: the references of the page being filled
  std::uint64_t added_ = 0;
};

}  // namespace isr
