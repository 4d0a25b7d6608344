// There are two kinds of loss. For one that can be undone the user answers y. For one that cannot, the user types the
// name of the parcel, so that habit does not lose it.
#include <fmt/format.h>

#include "cli/context.h"
#include "cli/terminal.h"

namespace isr {

bool may_ask(const GlobalFlags& flags) { return !flags.yes && !flags.no_input && has_terminal(); }

void confirm(const GlobalFlags& flags, const std::string& question) {
  if (flags.yes) return;
  std::optional<SecretText> answer;
  if (!flags.no_input) answer = ask_terminal(printable(question) + " [y/N] ", Echo::kShown);
  if (!answer) {
    throw Error(ErrorKind::kUsage,
                fmt::format("this needs an answer, but no question can be asked here (no terminal, or --no-input): {}",
                            question),
                {"answer yes with --yes"});
  }
  if (const std::string_view said = *answer; said != "y" && said != "Y" && said != "yes")
    throw Error(ErrorKind::kCancelled, "nothing was changed");
}

void confirm_name(const GlobalFlags& flags, const std::string& question, const std::string& name,
                  const std::string& confirm_flag) {
  if (!confirm_flag.empty()) {
    if (confirm_flag == name) return;
    throw Error(ErrorKind::kUsage, fmt::format("the name after --confirm is not {}", name));
  }
  std::optional<SecretText> answer;
  if (!flags.no_input) {
    answer = ask_terminal(printable(question) + "\nType " + printable(name) + " to go on: ", Echo::kShown);
  }
  if (!answer) {
    throw Error(ErrorKind::kUsage,
                fmt::format("this needs an answer, but no question can be asked here (no terminal, or --no-input): {}",
                            question),
                {fmt::format("--confirm {}   (--yes is not enough for this)", name)});
  }
  if (answer->view() != name) throw Error(ErrorKind::kCancelled, "nothing was changed");
}

}  // namespace isr
