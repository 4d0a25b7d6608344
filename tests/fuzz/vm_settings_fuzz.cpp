// Parses settings and stamps of heads. Accepted ones are within bounds and are
// the same after they are written and read again.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/error.h"
#include "vm/settings.h"

namespace {

using namespace isr;

template <class Call>
void expect_corrupt_only(Call call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = as_text({data, size});
  std::optional<VmSettings> settings;
  std::optional<VmStamp> stamp;
  expect_corrupt_only([&] { settings = parse_vm_settings(text); });
  expect_corrupt_only([&] { stamp = parse_vm_stamp(text); });
  if (settings) {
    check_vm_settings(*settings);
    if (vm_settings_from_json(vm_settings_to_json(*settings)) != *settings) std::abort();
  }
  if (stamp && vm_stamp_from_json(vm_stamp_to_json(*stamp)) != *stamp) std::abort();
  return 0;
}
