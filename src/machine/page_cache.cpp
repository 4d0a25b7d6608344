// The page cache of a guest only repeats its disks, and is often most of its memory. The agent in the guest drops it.
// The guest's kernel then reports the free pages to QEMU, which gives them back to this host in passes of some hundred
// MiB, two seconds apart. So we wait until no memory comes back for a little longer than that, and 5 s at most.
//
// Dirty pages stay in the cache: writing them could take long, and must not go on after the resume.

#include "machine/page_cache.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/sizes.h"
#include "vm/guest_agent.h"

namespace isr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kGreeting = 1s;
constexpr auto kDropping = 1500ms;
constexpr auto kLongest = 5s;       // from the beginning
constexpr auto kNextPass = 2300ms;  // Linux waits 2 s between two passes
constexpr auto kPoll = 50ms;

// Exits with 0 if at least 16 MiB became free; less is not worth a wait.
constexpr const char* kDropCaches = R"(
free() { while read name size unit; do [ $name = MemFree: ] && echo $size && return; done </proc/meminfo; }
before=$(free)
echo 1 >/proc/sys/vm/drop_caches && [ $(($(free) - before)) -ge 16384 ])";

}  // namespace

void drop_page_cache(Vm& vm, const std::function<std::uint64_t()>& given_back) {
  const auto began = Clock::now();
  try {
    if (!vm.agent_listens()) return;
    const bool dropped =
        vm.agent().greet({kGreeting, {}}) && vm.agent().run("/bin/sh", {"-c", kDropCaches}, {kDropping, {}}) == 0;
    if (!dropped) {
      log::debug("the page cache was not dropped: the agent refuses, or the cache is small");
      return;
    }
  } catch (const Error& error) {
    log::debug("the page cache was not dropped: {}", error.what());
    return;
  }
  const std::uint64_t before = given_back();
  std::uint64_t last = before;
  for (auto last_pass = Clock::now(), now = last_pass; now < began + kLongest && now < last_pass + kNextPass;
       now = Clock::now()) {
    std::this_thread::sleep_for(kPoll);
    if (std::exchange(last, given_back()) != last) last_pass = Clock::now();
  }
  log::info("the page cache was dropped; the guest gave back {}", format_size(last - before));
}

}  // namespace isr
