// All help texts come from the command's own description. A man page or a completion generated from it will say the
// same.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/command_description.h"

namespace isr {
namespace {

using Kind = Parameter::Kind;

constexpr std::size_t kColumn = 32;
constexpr std::size_t kWidth = 100;

constexpr std::array<std::pair<Group, std::string_view>, 5> kGroups = {{{Group::kEveryday, "Everyday"},
                                                                        {Group::kGoingBack, "Going back"},
                                                                        {Group::kOffline, "Working offline"},
                                                                        {Group::kAppliances, "Appliances"},
                                                                        {Group::kAdministration, "Administration"}}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 17> kGlobalFlags = {{
    {"-h, --help", "this text; --help-all shows more"},
    {"-V, --version", "print the version"},
    {"-q, --quiet", "errors only"},
    {"-v", "print more; twice: print everything"},
    {"--json", "answers, progress and errors as JSON"},
    {"--repo R", "the repository; else default_repo"},
    {"--config FILE", "instead of the user's config.toml"},
    {"--offline", "do not touch the network"},
    {"-y, --yes", "yes to questions about what can be undone"},
    {"--no-input", "never ask anything"},
    {"--color WHEN", "auto, always, never"},
    {"--progress FORM", "auto, bar, plain, json, none"},
    {"--password-file F", "read the password from F; - is stdin"},
    {"--password-command C", "the output of C is the password"},
    {"--bwlimit RATE", "upload at most RATE a second, e.g. 5M"},
    {"--log-level L", "debug, info, warn, error, off"},
    {"--log-file F", "log there instead of stderr"},
}};

std::string_view meaning_of_exit_code(int code) {
  switch (code) {
    case 0:
      return "done";
    case 1:
      return "failed";
    case 2:
      return "usage: bad argument, name, size or configuration";
    case 3:
      return "finished with warnings";
    case 10:
      return "no such repository, parcel or version";
    case 11:
      return "locked by another host";
    case 12:
      return "password or key wrong, missing, or not allowed";
    case 13:
      return "offline or unreachable, and the data is not here";
    case 14:
      return "damaged or tampered data";
    case 15:
      return "history rolled back or forked: refused";
    case 16:
      return "the VM could not start, or is already running";
    case 17:
      return "another host published first: our work is kept as a fork";
    case 18:
      return "no space, quota reached, or local I/O error";
    case 19:
      return "unsupported format or store";
    case 20:
      return "the session daemon is absent or does not answer";
    case 130:
      return "interrupted; the same command run again continues";
    default:
      return "see isr --help-all";
  }
}

/// "  left        right", with right wrapped and indented.
std::string row(std::string_view left, std::string_view right) {
  std::string out = fmt::format("  {:<{}}", left, kColumn - 2);
  if (left.size() + 3 > kColumn) out += '\n' + std::string(kColumn, ' ');
  std::size_t used = kColumn;
  while (!right.empty()) {
    const auto space = right.find(' ');
    const auto word = right.substr(0, space);
    if (used != kColumn && used + 1 + word.size() > kWidth) {
      out += '\n' + std::string(kColumn, ' ');
      used = kColumn;
    } else if (used != kColumn) {
      out += ' ';
      ++used;
    }
    out += word;
    used += word.size();
    right = space == std::string_view::npos ? std::string_view{} : right.substr(space + 1);
  }
  return out + '\n';
}

std::string shown_name(const Parameter& parameter) {
  switch (parameter.kind) {
    case Kind::kArgument:
      return parameter.names;
    case Kind::kOptionalArgument:
      return fmt::format("[{}]", parameter.names);
    case Kind::kArguments:
      return fmt::format("[{}...]", parameter.names);
    case Kind::kFlag:
      return fmt::format("{}", fmt::join(split_names(parameter.names), ", "));
    case Kind::kOption:
    case Kind::kRepeated:
      return fmt::format("{} {}", fmt::join(split_names(parameter.names), ", "), parameter.value_name);
  }
  return {};
}

bool is_positional(const Parameter& parameter) {
  return parameter.kind == Kind::kArgument || parameter.kind == Kind::kOptionalArgument ||
         parameter.kind == Kind::kArguments;
}

std::string list_commands(const std::vector<const Command::Impl*>& commands, Group group, bool all) {
  std::string out;
  for (const auto* command : commands) {
    if (command->group != group) continue;
    std::string left = command->name;
    for (const auto& parameter : command->parameters) {
      if (is_positional(parameter)) left += " " + shown_name(parameter);
    }
    if (!command->subcommands.empty()) {
      std::vector<std::string> names;
      for (const auto& sub : command->subcommands) names.push_back(sub->description().name);
      left += fmt::format(" {}", fmt::join(names, "|"));
    }
    out += row(left, command->purpose);
    if (all && command->subcommands.empty()) out += row("", synopsis(*command));
  }
  return out;
}

}  // namespace

std::string synopsis(const Command::Impl& command) {
  std::string out = "isr " + command.path;
  for (const auto& parameter : command.parameters) {
    if (is_positional(parameter)) out += " " + shown_name(parameter);
  }
  for (const auto& parameter : command.parameters) {
    if (is_positional(parameter)) continue;
    const std::string last = split_names(parameter.names).back();
    const std::string value = parameter.value_name.empty() ? "" : " " + parameter.value_name;
    out += fmt::format(" [{}{}]{}", last, value, parameter.kind == Kind::kRepeated ? "..." : "");
  }
  if (!command.subcommands.empty()) out += " COMMAND";
  return out;
}

std::string help_of_program(const std::vector<const Command::Impl*>& commands, bool all) {
  std::string out = "isr: suspend a computer here, resume it there.\n\nusage: isr COMMAND [ARGUMENTS]\n";
  for (const auto& [group, title] : kGroups) {
    const std::string list = list_commands(commands, group, all);
    if (!list.empty()) out += fmt::format("\n{}\n{}", title, list);
  }
  out += "\nFlags that every command takes, before or after its name\n";
  for (const auto& [flag, help] : kGlobalFlags) out += row(flag, help);
  out +=
      "\nisr COMMAND --help says more of one command; isr help undo says which command throws away what.\n"
      "NAME is [REPO:]PARCEL[@VERSION]; VERSION is a number, latest, latest~N or a fork.\n";
  return out;
}

std::string help_of_command(const Command::Impl& command) {
  std::string out = fmt::format("isr {}: {}\n\nusage: {}\n", command.path, command.purpose, synopsis(command));
  for (const auto& sub : command.subcommands) out += fmt::format("       {}\n", synopsis(sub->description()));
  for (const auto& note : command.notes) out += fmt::format("\n{}\n", note);
  if (!command.parameters.empty()) {
    out += "\nArguments and flags\n";
    for (const auto& parameter : command.parameters) out += row(shown_name(parameter), parameter.help);
    out += row("", "and the flags of isr --help");
  }
  if (!command.subcommands.empty()) {
    out += "\nCommands\n";
    for (const auto& sub : command.subcommands) out += row(sub->description().name, sub->description().purpose);
  }
  if (!command.examples.empty()) {
    out += "\nExamples\n";
    for (const auto& [line, what] : command.examples) out += fmt::format("  {}\n      {}\n", line, what);
  }
  if (!command.exit_codes.empty()) {
    out += "\nExit codes\n";
    for (const int code : command.exit_codes) out += fmt::format("  {:<4} {}\n", code, meaning_of_exit_code(code));
  }
  return out;
}

std::string help_undo(const std::vector<std::string>& command_names) {
  using Row = std::array<std::string_view, 6>;
  constexpr Row kHeader = {"command", "guest memory", "unsynced changes", "disks", "new version", "lock"};
  constexpr std::array<Row, 8> kRows = {{
      {"suspend", "saved", "uploaded", "kept", "yes", "released"},
      {"sync", "saved, runs on", "uploaded", "kept", "yes", "kept"},
      {"stop", "guest shuts down", "uploaded", "kept", "yes", "released"},
      {"checkin", "saved if suspended", "uploaded", "kept", "yes", "released"},
      {"poweroff", "DROPPED", "kept", "kept", "no", "kept"},
      {"rollback", "as in V", "checkin first", "as in V", "yes (copy of V)", "released"},
      {"branch", "as in V, in NEW", "untouched", "as in V", "first of NEW", "of NEW"},
      {"discard", "BACK TO LAST SYNC", "DROPPED", "last sync", "no", "kept"},
  }};
  const auto line = [](const Row& r) {
    return fmt::format("{:<10} {:<19} {:<17} {:<10} {:<16} {}\n", r[0], r[1], r[2], r[3], r[4], r[5]);
  };
  std::string out = "Which command throws away what\n\n" + line(kHeader);
  for (const Row& r : kRows) {
    if (std::find(command_names.begin(), command_names.end(), r[0]) != command_names.end()) out += line(r);
  }
  return out + "\nHistory only grows: a rollback is a new version that copies an old one, so it can be undone too.\n";
}

}  // namespace isr
