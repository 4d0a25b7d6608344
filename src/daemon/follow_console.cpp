#include "daemon/follow_console.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/text.h"

namespace isr {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kConsolePiece = 64U << 10U;  // fits into a control line even when every byte is escaped
constexpr auto kConsoleWait = 1s;
constexpr auto kSlowListener = 50ms;

}  // namespace

ConsoleAnswer follow_console(const SerialConsole& console, const ConsoleRequest& request, const ControlReply& reply,
                             const std::stop_token& stop) {
  std::uint64_t offset = request.offset;
  for (;;) {
    // Must be known before the text is read: text that arrives in between is then read in the next round.
    const bool last = !request.follow || console.ended() || stop.stop_requested();
    SerialConsole::Text text = console.since(offset, kConsolePiece);
    const std::uint64_t seen = text.end();
    if (!last || text.text.size() == kConsolePiece) text.text.resize(whole_characters(text.text));
    const bool said = !text.text.empty();
    if (said && reply(encode_progress(ConsoleLine{text.text, text.offset}))) {
      offset = text.end();
    } else if (stop.stop_requested() || (last && !said)) {
      return {offset, console.ended()};
    } else if (said) {
      std::this_thread::sleep_for(kSlowListener);
    } else {
      console.wait_beyond(seen, kConsoleWait, stop);
    }
  }
}

TypeAnswer type_text(SerialConsole& console, const TypeRequest& request) {
  console.write(request.text);
  return {};
}

std::shared_ptr<SerialConsole> console_of(const Machine& machine, const std::string& parcel) {
  auto console = machine.console();
  if (!console) throw Error(ErrorKind::kVm, fmt::format("{} is not running", parcel));
  return console;
}

}  // namespace isr
