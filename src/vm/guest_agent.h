#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "vm/qmp_client.h"
#include "vm/serial_console.h"

namespace isr {

/// A conversation with qemu-ga, the program that a guest may run for its host. The agent may be absent, silent, slow or
/// hostile. So isr relies only on the fact that something answers, and treats no answer in time as an answer.
///
/// Threads: one at a time.
class GuestAgent {
 public:
  explicit GuestAgent(UniqueFd connected);

  /// True when an agent answers now. A request after that is read at once, not at some later time when a suspended
  /// guest resumes.
  bool greet(const Patience& patience);
  /// Sets the guest's clock. False when the agent refuses or does not answer.
  bool set_time(std::chrono::system_clock::time_point now, const Patience& patience);
  /// Runs a program in the guest with administrator rights. Returns its exit code; nullopt when the agent refuses or
  /// does not answer, or when the program does not end in time (it is not stopped then).
  std::optional<int> run(const std::string& program, const std::vector<std::string>& arguments,
                         const Patience& patience);

 private:
  std::optional<nlohmann::json> ask(const std::string& command, const nlohmann::json& arguments,
                                    const Patience& patience);
  /// Returns the text from `offset` to the end of the first line that `wanted` accepts.
  std::optional<nlohmann::json> hear(std::uint64_t offset, const Patience& patience,
                                     const std::function<bool(const nlohmann::json&)>& wanted) const;

  SerialConsole stream_;
  std::uint64_t greetings_;
};

}  // namespace isr
