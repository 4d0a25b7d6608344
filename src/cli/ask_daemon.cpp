#include "cli/ask_daemon.h"

#include <fmt/format.h>

namespace isr {

void note_kept_settings(CommandContext& context, const std::vector<std::string>& keys) {
  if (keys.empty()) return;
  context.out.note(fmt::format("the session keeps the {} with which it began; this command has another value",
                               fmt::join(keys, ", ")));
}

OnProgress<ProgressLine> show_on(Progress& progress) {
  return [&progress](const ProgressLine& line) { progress.update(line.step, line.done, line.total); };
}

}  // namespace isr
