// QEMU's hardware clock follows the clock of this host, so it is right in a resumed guest. The clock of the guest's
// kernel continues from the moment of the suspend. Only an agent in the guest can set it, or a time service that
// notices the network. So an awakening asks the agent to set the clock. It also takes the network cable out for a
// moment, after which the guest asks for its address again.
//
// After a pause an awakening repeats the steps that were not complete. It takes the cable out again, because the guest
// may not have noticed a cable that pause() put in early.

#include "machine/awakening.h"

#include "base/error.h"
#include "base/log.h"
#include "base/sleep.h"

namespace isr {
namespace {

constexpr int kTriesOfPause = 3;

std::string describe_clock(bool listens, bool set) {
  if (set) return "the agent in the guest has set its clock";
  return listens ? "the agent in the guest does not answer, so the guest's clock was not set"
                 : "no agent runs in the guest, so only its hardware clock is right; its system clock was not set";
}

}  // namespace

Awakening::Awakening(WakingGuest guest, AwakeningTimes times)
    : guest_(std::move(guest)), times_(times), cable_to_do_(guest_.set_link != nullptr) {}

Awakening::~Awakening() = default;

void Awakening::go_on() {
  if (!cable_to_do_ && !cable_is_out_ && !clock_to_do_) return;
  const auto work = [this](const std::stop_token& stop) {
    try {
      run(stop);
    } catch (const std::exception& error) {
      log::warn("{}", error.what());
    }
  };
  try {
    thread_ = std::jthread(work);
  } catch (const std::system_error& error) {
    log::warn("cannot set the clock of the guest or renew its network: {}", error.what());
  }
}

void Awakening::pause() {
  thread_ = {};
  for (int tries = 0; cable_is_out_ && tries < kTriesOfPause; ++tries) {
    if (tries > 0) sleep_unless_stopped(times_.cable_retry, {});
    put_cable_in();
  }
}

void Awakening::run(const std::stop_token& stop) {
  const auto cable_in = std::chrono::steady_clock::now() + times_.cable_out;
  if (cable_to_do_) pull_cable_out();
  bool listens = false;
  try {
    listens = clock_to_do_ && guest_.agent_listens();
  } catch (const Error& error) {
    log::warn("{}", error.what());
  }
  bool set = listens && set_clock(times_.cable_out, stop);
  if (cable_is_out_) {
    sleep_unless_stopped(std::chrono::ceil<std::chrono::milliseconds>(cable_in - std::chrono::steady_clock::now()),
                         stop);
    while (!stop.stop_requested() && !put_cable_in()) sleep_unless_stopped(times_.cable_retry, stop);
    cable_to_do_ = cable_is_out_;
  }
  if (listens && !set && !stop.stop_requested()) set = set_clock(times_.late_answer, stop);
  if (!clock_to_do_ || (stop.stop_requested() && !set)) return;
  *words_.lock() = describe_clock(listens, set);
  clock_to_do_ = false;
}

void Awakening::pull_cable_out() {
  cable_is_out_ = true;  // even if set_link() fails: QEMU may have done it all the same
  try {
    guest_.set_link(false);
  } catch (const Error& error) {
    log::warn("{}", error.what());
  }
}

bool Awakening::put_cable_in() {
  try {
    guest_.set_link(true);
  } catch (const Error& error) {
    if (!cable_was_refused_) log::warn("the network cable is out: {}; trying again", error.what());
    cable_was_refused_ = true;
    return false;
  }
  if (cable_was_refused_) log::warn("the network cable is in again");
  cable_was_refused_ = false;
  cable_is_out_ = false;
  return true;
}

bool Awakening::set_clock(std::chrono::milliseconds timeout, const std::stop_token& stop) {
  try {
    return guest_.set_clock({timeout, stop});
  } catch (const Error& error) {
    log::warn("{}", error.what());
    return false;
  }
}

}  // namespace isr
