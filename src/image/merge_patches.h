#pragma once

#include "image/snapshot.h"

namespace isr {

/// A patch that no version has yet, and its objects.
struct NewPatch {
  TreeRoot patch;
  std::vector<ClearRef> objects;
};

/// Bounds the number of an image's patches. When there are many, it puts some that follow each other together in one
/// new patch: the smallest ones. While there are more than half of kMaxPatches, because they are not on this host or
/// are large, it puts the oldest into the tree, if it can without fetching. Beyond kMaxPatches it fetches for that.
///
/// Adds what it makes to `made` and, for the tree, to `new_objects`. Errors as ChunkReader and PackStore.
void bound_patches(const SealContext& context, PatchedTree& content, std::vector<NewPatch>& made,
                   std::vector<ClearRef>& new_objects);

}  // namespace isr
