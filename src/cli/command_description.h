#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/app.h"

namespace CLI {
class App;
}

/// The description of a Command. Help is written from it, and CLI11 is set up by it.
namespace isr {

struct Parameter {
  enum class Kind { kArgument, kOptionalArgument, kArguments, kFlag, kOption, kRepeated };
  Kind kind = Kind::kFlag;
  std::string names;       ///< "NAME", or "-m,--message"
  std::string value_name;  ///< for an option
  std::string help;
};

struct Command::Impl {
  Group group = Group::kHidden;
  std::string path;  ///< "repo add"
  std::string name;  ///< "add"
  std::string purpose;
  std::vector<Parameter> parameters;
  std::vector<std::string> aliases;
  std::vector<std::pair<std::string, std::string>> examples;
  std::vector<std::string> notes;
  std::vector<int> exit_codes;
  Run run;
  std::vector<std::unique_ptr<Command>> subcommands;
  std::vector<std::function<void(CLI::App&)>> bindings;  ///< one for each parameter
};

/// The text of `isr --help`: the commands by group, and the global flags.
std::string help_of_program(const std::vector<const Command::Impl*>& commands, bool all);
/// The text of `isr COMMAND --help`.
std::string help_of_command(const Command::Impl& command);
/// The text of `isr help undo`: a table of what each of the existing commands throws away.
std::string help_undo(const std::vector<std::string>& command_names);
/// "isr repo add NAME URL [--user USER]".
std::string synopsis(const Command::Impl& command);
/// "--message" and "-m" of "-m,--message".
std::vector<std::string> split_names(const std::string& names);

}  // namespace isr
