// The page cache of a guest is a copy of what is on its disks, and often most of its memory. The guest's agent drops
// it; the guest's kernel reports free pages to QEMU, which gives them back: in passes, two seconds apart, each of some
// hundred MiB. So we wait for two of them, unless nothing comes.
//
// Pages that are not on the disk yet stay: to write it could take long, and must not go on after the resume.

#include <fmt/format.h>

#include "base/log.h"
#include "base/sizes.h"
#include "host/config.h"
#include "machine/machine.h"

namespace isr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kGreeting = 1s;
constexpr auto kDropping = 1500ms;
constexpr auto kLongest = 5s;       // from the beginning
constexpr auto kNextPass = 2300ms;  // Linux waits 2 s between two passes
constexpr auto kPoll = 50ms;

// 0: at least 16 MiB are free that were not; less is not worth a wait.
constexpr const char* kDropCaches = R"(
free() { while read name size unit; do [ $name = MemFree: ] && echo $size && return; done </proc/meminfo; }
before=$(free)
echo 1 >/proc/sys/vm/drop_caches && [ $(($(free) - before)) -ge 16384 ])";

}  // namespace

void Machine::drop_page_cache() {
  if (!running()) return;
  const auto began = Clock::now();
  if (awakening_) awakening_->pause();  // the agent hears one at a time
  try {
    if (!vm_->agent_listens()) return;
    const bool dropped =
        vm_->agent().greet({kGreeting, {}}) && vm_->agent().run("/bin/sh", {"-c", kDropCaches}, {kDropping, {}}) == 0;
    if (!dropped) {
      log::debug("the page cache was not dropped: the agent does not, or there is little in it");
      return;
    }
  } catch (const Error& error) {
    log::debug("the page cache was not dropped: {}", error.what());
    return;
  }
  const auto given_back = [this] { return memory_->counters().discarded_bytes.load(); };
  const std::uint64_t before = given_back();
  std::uint64_t last = before;
  for (auto last_pass = Clock::now(), now = last_pass; now < began + kLongest && now < last_pass + kNextPass;
       now = Clock::now()) {
    std::this_thread::sleep_for(kPoll);
    if (std::exchange(last, given_back()) != last) last_pass = Clock::now();
  }
  log::info("the page cache was dropped, {} came back", format_size(last - before));
}

}  // namespace isr
