// Parses the table of a patch, from its end. An accepted table must have the form that isr writes, and its runs must
// lie inside the image and the patch. The first 8 bytes are the size of the patched image.
#include <cstdlib>

#include "base/error.h"
#include "image/patch.h"

using namespace isr;

namespace {

void check_inside(const PatchTable& table, std::uint64_t image_size) {
  std::uint64_t end = 0;
  for (const PatchRun& run : table.runs) {
    if (run.length == 0 || run.offset < end || run.end() > image_size) std::abort();
    if (!run.is_zeros && run.position + run.length > table.data_bytes) std::abort();
    end = run.end();
  }
  std::uint64_t next = 0;
  for (const ChunkRun& run : table.cleared) {
    if (run.count == 0 || run.first < next || run.end() > chunk_count(image_size)) std::abort();
    next = run.end();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 8 + kPatchFooterSize) return 0;
  try {
    const std::uint64_t image_size = ByteReader({data, 8}, "the size").u64() % (kMaxImageSize + 1);
    const ByteView patch(data + 8, size - 8);
    const std::size_t table_size = patch_table_size(patch.last(kPatchFooterSize), patch.size());
    if (table_size > patch.size()) std::abort();
    const ByteView bytes = patch.last(table_size);
    const PatchTable table = parse_patch_table(bytes, patch.size(), image_size);
    check_inside(table, image_size);
    const Bytes again = encode_patch_table(table);
    if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
  return 0;
}
