// CLI11 splits the command line. Its error messages are replaced, because they name neither the command nor what to do.
#include "cli/app.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <CLI/CLI.hpp>
#include <map>

#include "base/log.h"
#include "base/text.h"
#include "cli/command_description.h"
#include "cli/signals.h"

namespace isr {
namespace {

/// Maps a CLI11 object to the command that it was made for.
using Made = std::map<const CLI::App*, const Command::Impl*>;

void add_global_flags(CLI::App& root, GlobalFlags& flags, bool& version) {
  root.add_flag("-V,--version", version);
  root.add_flag("-q,--quiet", flags.quiet);
  root.add_flag("-v", flags.verbose);
  root.add_flag("--json", flags.json);
  root.add_option("--repo", flags.repo);
  root.add_option("--config", flags.config_file);
  root.add_flag("--offline", flags.offline);
  root.add_flag("-y,--yes", flags.yes);
  root.add_flag("--no-input", flags.no_input);
  root.add_option("--color", flags.color);
  root.add_option("--progress", flags.progress);
  root.add_option("--password-file", flags.password_file);
  root.add_option("--password-command", flags.password_command);
  root.add_option("--bwlimit", flags.bwlimit);
  root.add_option("--log-level", flags.log_level);
  root.add_option("--log-file", flags.log_file);
}

void make(CLI::App& parent, const Command& command, Made& made) {
  const Command::Impl& description = command.description();
  CLI::App* app = parent.add_subcommand(description.name, description.purpose);
  for (const auto& alias : description.aliases) app->alias(alias);
  for (const auto& bind : description.bindings) bind(*app);
  app->require_subcommand(0, 1);
  for (const auto& sub : description.subcommands) make(*app, *sub, made);
  made[app] = &description;
}

/// The most specific command given: "repo add" for `isr repo add`.
const CLI::App* selected(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

/// Long and short names of every option that the user could have meant.
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const auto* option : at->get_options()) {
      for (const auto& name : option->get_lnames()) names.push_back("--" + name);
      for (const auto& name : option->get_snames()) names.push_back("-" + name);
    }
  }
  return names;
}

void check_choice(const char* flag, const std::string& value, const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: \"{}\" is not one of {}", flag, escaped(value), fmt::join(choices, ", ")));
}

void check_flags(GlobalFlags& flags) {
  check_choice("--color", flags.color, {"auto", "always", "never"});
  check_choice("--progress", flags.progress, {"auto", "bar", "plain", "json", "none"});
  if (!flags.log_level.empty()) check_choice("--log-level", flags.log_level, {"debug", "info", "warn", "error", "off"});
  if (!flags.password_file.empty() && !flags.password_command.empty()) {
    throw Error(ErrorKind::kUsage, "--password-file and --password-command cannot be used together");
  }
}

spdlog::level::level_enum log_level(const GlobalFlags& flags) {
  const char* variable = std::getenv("ISR_LOG");  // NOLINT(concurrency-mt-unsafe): nothing sets it
  const std::string name = !flags.log_level.empty() ? flags.log_level : variable != nullptr ? variable : "";
  if (name == "warn") return spdlog::level::warn;
  if (name == "error") return spdlog::level::err;
  if (!name.empty()) return spdlog::level::from_str(name);  // from_str() returns "off" for unknown names
  if (flags.quiet) return spdlog::level::err;
  return flags.verbose >= 2 ? spdlog::level::debug : flags.verbose == 1 ? spdlog::level::info : spdlog::level::warn;
}

void configure_log(const GlobalFlags& flags) {
  try {
    spdlog::sink_ptr sink;
    if (flags.log_file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
      sink->set_pattern("isr: %l: %v");
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(flags.log_file);
      sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
    }
    auto logger = std::make_shared<spdlog::logger>("isr", std::move(sink));
    logger->set_level(log_level(flags));
    logger->flush_on(spdlog::level::warn);
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& error) {
    throw Error(ErrorKind::kUsage, fmt::format("--log-file: {}", error.what()));
  }
}

bool is_flag(const std::string& word) { return word.size() > 1 && word[0] == '-'; }

bool asks_for_json(int argc, char** argv) {
  return std::any_of(argv + 1, argv + argc, [](const char* word) { return std::string_view(word) == "--json"; });
}

}  // namespace

struct App::Impl {
  std::vector<std::unique_ptr<Command>> commands;
  std::vector<std::string> help_words;

  std::vector<const Command::Impl*> descriptions() const {
    std::vector<const Command::Impl*> all;
    for (const auto& command : commands) all.push_back(&command->description());
    return all;
  }
  static std::vector<std::string> names_of(const std::vector<std::unique_ptr<Command>>& list) {
    std::vector<std::string> names;
    for (const auto& command : list) {
      names.push_back(command->description().name);
      for (const auto& alias : command->description().aliases) names.push_back(alias);
    }
    return names;
  }
  const Command::Impl* find(const std::vector<std::string>& words) const;
  int help(CommandContext& context) const;
  [[noreturn]] void refuse(const CLI::App& root, const Made& made, const CLI::ParseError& error) const;
  [[noreturn]] void refuse_extra(const CLI::App& root, const Made& made) const;
  [[noreturn]] void refuse_unknown(const std::string& word, const Command::Impl* parent) const;
  const Command::Impl* parse(int argc, char** argv, GlobalFlags& flags);
  int run(int argc, char** argv, GlobalFlags& flags);
};

const Command::Impl* App::Impl::find(const std::vector<std::string>& words) const {
  const auto* list = &commands;
  const Command::Impl* found = nullptr;
  for (const auto& word : words) {
    const auto at = std::find_if(list->begin(), list->end(), [&](const auto& command) {
      const auto& aliases = command->description().aliases;
      return command->description().name == word || std::find(aliases.begin(), aliases.end(), word) != aliases.end();
    });
    if (at == list->end()) refuse_unknown(word, found);
    found = &(*at)->description();
    list = &found->subcommands;
  }
  return found;
}

int App::Impl::help(CommandContext& context) const {
  if (help_words.empty()) {
    context.out.line(help_of_program(descriptions(), false));
  } else if (help_words.size() == 1 && help_words[0] == "undo" && find({"help"}) != nullptr) {
    context.out.line(help_undo(names_of(commands)));
  } else {
    context.out.line(help_of_command(*find(help_words)));
  }
  return 0;
}

void App::Impl::refuse_unknown(const std::string& word, const Command::Impl* parent) const {
  const std::string near = nearest(word, names_of(parent == nullptr ? commands : parent->subcommands));
  const std::string what = parent == nullptr ? "no command" : fmt::format("isr {} has no command", parent->path);
  const std::string guess = near.empty() ? "" : fmt::format(" Did you mean \"{}\"?", near);
  throw Error(ErrorKind::kUsage, fmt::format("{} \"{}\".{}", what, escaped(word), guess),
              {parent == nullptr ? "isr --help" : fmt::format("isr {} --help", parent->path)});
}

void App::Impl::refuse_extra(const CLI::App& root, const Made& made) const {
  const CLI::App* app = selected(root);
  const auto found = made.find(app);
  const Command::Impl* command = found == made.end() ? nullptr : found->second;
  const auto words = root.remaining(true);
  const auto flag = std::find_if(words.begin(), words.end(), is_flag);
  const std::string word = flag != words.end() ? *flag : words.empty() ? "" : words.front();
  if (is_flag(word)) {
    const std::string near = nearest(word.substr(0, word.find('=')), option_names(*app));
    const std::string guess = near.empty() ? "" : fmt::format(" Did you mean \"{}\"?", near);
    throw Error(
        ErrorKind::kUsage,
        fmt::format("isr{} has no flag \"{}\".{}", command == nullptr ? "" : " " + command->path, escaped(word), guess),
        {command == nullptr ? "isr --help" : fmt::format("isr {} --help", command->path)});
  }
  if (command == nullptr || !command->subcommands.empty()) refuse_unknown(word, command);
  throw Error(ErrorKind::kUsage, fmt::format("isr {}: one argument too many: \"{}\"", command->path, escaped(word)),
              {"usage: " + synopsis(*command)});
}

void App::Impl::refuse(const CLI::App& root, const Made& made, const CLI::ParseError& error) const {
  // A mistyped flag often makes an argument appear missing, too. The flag is the cause.
  const auto words = root.remaining(true);
  const bool stray_flag = std::any_of(words.begin(), words.end(), is_flag);
  if (stray_flag || dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) refuse_extra(root, made);
  const auto found = made.find(selected(root));
  if (found == made.end()) throw Error(ErrorKind::kUsage, escaped(error.what()), {"isr --help"});
  // CLI11 knows positional arguments by an internal name.
  std::string what = error.what();
  const auto& parameters = found->second->parameters;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string inner = fmt::format("argument{}", i + 1);
    if (const auto at = what.find(inner); at != std::string::npos) what.replace(at, inner.size(), parameters[i].names);
  }
  throw Error(ErrorKind::kUsage, fmt::format("isr {}: {}", found->second->path, escaped(what)),
              {"usage: " + synopsis(*found->second)});
}

/// The command to run; nullptr when help was asked for and printed.
const Command::Impl* App::Impl::parse(int argc, char** argv, GlobalFlags& flags) {
  CLI::App root;
  Made made;
  bool version = false;
  root.fallthrough();
  root.require_subcommand(0, 1);
  root.set_help_flag("-h,--help");
  root.set_help_all_flag("--help-all");
  add_global_flags(root, flags, version);
  for (const auto& command : commands) make(root, *command, made);
  const Output out(flags);
  try {
    root.parse(argc, argv);
  } catch (const CLI::CallForAllHelp&) {
    out.line(help_of_program(descriptions(), true));
    return nullptr;
  } catch (const CLI::CallForHelp&) {
    const auto found = made.find(selected(root));
    out.line(found == made.end() ? help_of_program(descriptions(), false) : help_of_command(*found->second));
    return nullptr;
  } catch (const CLI::ParseError& error) {
    refuse(root, made, error);
  }
  const auto found = made.find(selected(root));
  if (found != made.end() && found->second->run) return found->second;
  if (version) return find({"version"});
  if (found == made.end()) throw Error(ErrorKind::kUsage, "no command was given", {"isr --help"});
  throw Error(ErrorKind::kUsage, fmt::format("isr {} needs a command", found->second->path),
              {fmt::format("one of: {}", fmt::join(names_of(found->second->subcommands), ", "))});
}

int App::Impl::run(int argc, char** argv, GlobalFlags& flags) {
  const Command::Impl* command = parse(argc, argv, flags);
  if (command == nullptr) return 0;
  check_flags(flags);
  configure_log(flags);
  Signals signals;
  CommandContext context(flags, [&signals] { return signals.token(); });
  return command->run(context);
}

App::App() : impl_(std::make_unique<Impl>()) {
  command(Group::kHidden, "help", "show the help of one command")
      .arguments("COMMAND", impl_->help_words, "the command, or \"undo\"")
      .run([this](CommandContext& context) { return impl_->help(context); });
}
App::~App() = default;

Command& App::command(Group group, const std::string& name, const std::string& purpose) {
  auto impl = std::make_unique<Command::Impl>();
  impl->group = group;
  impl->path = name;
  impl->name = name;
  impl->purpose = purpose;
  impl_->commands.push_back(std::make_unique<Command>(std::move(impl)));
  return *impl_->commands.back();
}

int App::run(int argc, char** argv) noexcept {
  GlobalFlags flags;
  flags.json = asks_for_json(argc, argv);
  try {
    return impl_->run(argc, argv, flags);
  } catch (const std::exception& error) {
    return report_failure(flags, as_error(error));
  }
}

}  // namespace isr
