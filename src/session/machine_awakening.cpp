// What a guest needs that has stood still for hours and wakes up elsewhere: the
// time, and to learn that its network is another. It happens beside the running
// guest, and nobody waits for it.
//
// Its hardware clock is right by itself, its own clock goes on where it stood: only
// an agent can set that, or a time service that comes to life with the network. The
// network cable is out for a moment, on which a guest asks for its address again.

#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "session/machine.h"

namespace isr {
namespace {

using namespace std::chrono_literals;

constexpr auto kCableOut = 2s;     // Linux tells its programs of a cable once a second at most
constexpr auto kLateAnswer = 60s;  // of a guest whose memory is on a slow line
constexpr auto kSetClock = 10s;

void wait(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, time, [] { return false; });
}

/// False: the agent does not answer in time, or refuses.
bool set_clock(Qemu& vm, std::chrono::milliseconds timeout, const std::stop_token& stop) {
  return vm.agent().greet({timeout, stop}) && vm.agent().set_time(std::chrono::system_clock::now(), {kSetClock, stop});
}

std::string describe_clock(bool listens, bool set) {
  if (set) return "the agent in the guest has set its clock";
  return listens ? "the agent in the guest does not answer: its clock was not set"
                 : "no agent in the guest: its clock goes on where it stood, its hardware clock is right";
}

}  // namespace

void Machine::begin_awakening() {
  const bool network = session_.state().vm.network != NetworkMode::kNone;
  const auto work = [this, network](const std::stop_token& stop) {
    try {
      awaken(network, stop);
    } catch (const std::exception& error) {
      log::warn("{}: {}", name_, error.what());
    }
  };
  try {
    awakening_ = std::jthread(work);
  } catch (const std::system_error& error) {
    log::warn("{}: nobody sees to its clock and its cable: {}", name_, error.what());
  }
}

/// A guest is never left without its cable, also not when we are told to stop.
void Machine::awaken(bool network, const std::stop_token& stop) {
  try {
    if (network) vm_->set_link(false);
  } catch (const Error& error) {
    log::warn("{}: {}", name_, error.what());  // it may have been done all the same
  }
  const auto cable_in = std::chrono::steady_clock::now() + kCableOut;
  bool listens = false;
  bool set = false;
  try {
    listens = vm_->agent_listens();
    set = listens && set_clock(*vm_, kCableOut, stop);
  } catch (const Error& error) {
    log::warn("{}: {}", name_, error.what());
  }
  if (network) {
    wait(std::chrono::ceil<std::chrono::milliseconds>(cable_in - std::chrono::steady_clock::now()), stop);
    vm_->set_link(true);
  }
  if (listens && !set) set = set_clock(*vm_, kLateAnswer, stop);
  if (!stop.stop_requested()) *awakening_words_.lock() = describe_clock(listens, set);
}

}  // namespace isr
