#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/context.h"

/// How a command is added to the program. Each command has a file of its own:
///
///     struct MountOptions { std::string name; std::string directory; bool disk_only = false; };
///     void register_mount(App& app) {
///       auto options = std::make_shared<MountOptions>();
///       app.command(Group::kOffline, "mount", "look at a version, read-only")
///           .argument("NAME[@V]", options->name, "the parcel, and the version if not the newest")
///           .argument("DIR", options->directory, "an empty directory")
///           .flag("--disk-only", options->disk_only, "leave out memory")
///           .example("isr mount work@41 ~/look", "version 41 of work")
///           .exit_codes({0, 10, 18})
///           .run([options](CommandContext& context) { return run_mount(context, *options); });
///     }
///
/// Its name is then added to commands.h. CLI11 stays inside app.cpp and command.cpp.
namespace isr {

/// The groups of `isr --help`, in its order.
enum class Group { kEveryday, kGoingBack, kOffline, kAppliances, kAdministration, kHidden };

/// A command, or a subcommand such as "repo add", while it is being described.
/// The variables given must live as long as the App (keep them in the closure of run()).
class Command {
 public:
  using Run = std::function<int(CommandContext&)>;  ///< returns the exit code; failures are Error

  /// An argument that is empty is a usage error, except one of text_argument().
  Command& argument(const std::string& name, std::string& value, const std::string& help);
  Command& text_argument(const std::string& name, std::string& value, const std::string& help);
  Command& optional_argument(const std::string& name, std::string& value, const std::string& help);
  Command& arguments(const std::string& name, std::vector<std::string>& values, const std::string& help);  ///< 0..n
  /// flags: "--message" or "-m,--message". Giving an option twice is a usage error, except for the vector.
  Command& flag(const std::string& flags, bool& value, const std::string& help);
  Command& option(const std::string& flags, std::string& value, const std::string& value_name, const std::string& help);
  Command& option(const std::string& flags, std::optional<std::string>& value, const std::string& value_name,
                  const std::string& help);
  Command& option(const std::string& flags, std::vector<std::string>& values, const std::string& value_name,
                  const std::string& help);
  /// A whole number; Error{kUsage} for anything else.
  Command& number(const std::string& flags, std::optional<std::uint64_t>& value, const std::string& value_name,
                  const std::string& help);
  /// A size such as "20G", read by parse_size().
  Command& size(const std::string& flags, std::optional<std::uint64_t>& value, const std::string& help);
  /// A time such as "90s", "5m", "12h", "2d" or seconds, read by parse_duration().
  Command& duration(const std::string& flags, std::optional<std::chrono::seconds>& value, const std::string& help);
  /// One of `choices`.
  Command& choice(const std::string& flags, std::string& value, const std::vector<std::string>& choices,
                  const std::string& help);

  Command& alias(const std::string& name);  ///< hidden from help
  Command& example(const std::string& command_line, const std::string& what);
  Command& note(const std::string& paragraph);  ///< text for the command's help
  Command& exit_codes(const std::vector<int>& codes);
  Command& run(Run run);
  /// Adds "repo add" to "repo". A command with subcommands needs no run().
  Command& subcommand(const std::string& name, const std::string& purpose);

  struct Impl;
  explicit Command(std::unique_ptr<Impl> impl);
  ~Command();
  const Impl& description() const noexcept { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

class App {
 public:
  App();
  ~App();
  Command& command(Group group, const std::string& name, const std::string& purpose);

  /// Parses the arguments, runs one command, and reports its failure on stderr (or as a JSON object on stdout). Returns
  /// the exit code. Never throws.
  int run(int argc, char** argv) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
