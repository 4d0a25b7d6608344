#include "machine/resumable.h"

#include "base/error.h"
#include "vm/accelerator.h"

namespace isr {

std::optional<std::string> why_not_resumable(const VmSettings& vm, const VmStamp& stamp, const Paths& paths) {
  // Only the accelerator that saved the memory can load it.
  try {
    const Accelerator accelerator =
        choose_accelerator(parse_accelerator_choice(stamp.accelerator), runtime_directory(paths));
    return why_incompatible(stamp, stamp_here(vm, accelerator));
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace isr
