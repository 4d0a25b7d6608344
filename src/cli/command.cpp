// A description becomes CLI11 options only when the program is about to parse. So help works without CLI11, and only
// two files include its headers.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>

#include "base/sizes.h"
#include "base/text.h"
#include "cli/command_description.h"

namespace isr {
namespace {

using Kind = Parameter::Kind;

/// Passes the value to `take` once parsing is over. An error from `take` gets the option's name.
void bind_checked(CLI::App& app, const std::string& names, const std::function<void(const std::string&)>& take) {
  app.add_option_function<std::string>(names, [names, take](const std::string& text) {
    try {
      take(text);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", split_names(names).back(), error.what()), error.hints());
    }
  });
}

/// An empty name would stand for a default that the user did not ask for: mostly it is an unset variable of a script.
void bind_argument(CLI::App& app, const std::string& plain, const std::string& name,
                   const std::function<void(const std::string&)>& take, bool is_required) {
  CLI::Option* option = app.add_option_function<std::string>(plain, [name, take](const std::string& text) {
    if (text.empty()) throw Error(ErrorKind::kUsage, fmt::format("{} is empty", name));
    take(text);
  });
  option->required(is_required);
}

std::uint64_t parse_number(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) {
    throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not a whole number", escaped(text)));
  }
  return value;
}

}  // namespace

Command::Command(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Command::~Command() = default;

Command& Command::argument(const std::string& name, std::string& value, const std::string& help) {
  impl_->parameters.push_back({Kind::kArgument, name, {}, help});
  // CLI11 accepts only plain words as names of positional arguments, and "NAME[@V]" is not one.
  const std::string plain = fmt::format("argument{}", impl_->parameters.size());
  impl_->bindings.push_back([plain, name, &value](CLI::App& app) {
    bind_argument(
        app, plain, name, [&value](const std::string& text) { value = text; }, true);
  });
  return *this;
}

Command& Command::text_argument(const std::string& name, std::string& value, const std::string& help) {
  impl_->parameters.push_back({Kind::kArgument, name, {}, help});
  const std::string plain = fmt::format("argument{}", impl_->parameters.size());
  impl_->bindings.push_back([plain, &value](CLI::App& app) { app.add_option(plain, value)->required(); });
  return *this;
}

Command& Command::optional_argument(const std::string& name, std::string& value, const std::string& help) {
  impl_->parameters.push_back({Kind::kOptionalArgument, name, {}, help});
  const std::string plain = fmt::format("argument{}", impl_->parameters.size());
  impl_->bindings.push_back([plain, name, &value](CLI::App& app) {
    bind_argument(
        app, plain, name, [&value](const std::string& text) { value = text; }, false);
  });
  return *this;
}

Command& Command::arguments(const std::string& name, std::vector<std::string>& values, const std::string& help) {
  impl_->parameters.push_back({Kind::kArguments, name, {}, help});
  const std::string plain = fmt::format("argument{}", impl_->parameters.size());
  impl_->bindings.push_back([plain, &values](CLI::App& app) { app.add_option(plain, values); });
  return *this;
}

Command& Command::flag(const std::string& flags, bool& value, const std::string& help) {
  impl_->parameters.push_back({Kind::kFlag, flags, {}, help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) { app.add_flag(flags, value); });
  return *this;
}

Command& Command::option(const std::string& flags, std::string& value, const std::string& value_name,
                         const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, value_name, help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) { app.add_option(flags, value); });
  return *this;
}

Command& Command::option(const std::string& flags, std::optional<std::string>& value, const std::string& value_name,
                         const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, value_name, help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) {
    bind_checked(app, flags, [&value](const std::string& text) { value = text; });
  });
  return *this;
}

Command& Command::option(const std::string& flags, std::vector<std::string>& values, const std::string& value_name,
                         const std::string& help) {
  impl_->parameters.push_back({Kind::kRepeated, flags, value_name, help});
  // One value for each flag, because "--flag A NAME" would otherwise take the NAME, too.
  impl_->bindings.push_back(
      [flags, &values](CLI::App& app) { app.add_option(flags, values)->allow_extra_args(false); });
  return *this;
}

Command& Command::number(const std::string& flags, std::optional<std::uint64_t>& value, const std::string& value_name,
                         const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, value_name, help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) {
    bind_checked(app, flags, [&value](const std::string& text) { value = parse_number(text); });
  });
  return *this;
}

Command& Command::size(const std::string& flags, std::optional<std::uint64_t>& value, const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, "SIZE", help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) {
    bind_checked(app, flags, [&value](const std::string& text) { value = parse_size(text); });
  });
  return *this;
}

Command& Command::duration(const std::string& flags, std::optional<std::chrono::seconds>& value,
                           const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, "TIME", help});
  impl_->bindings.push_back([flags, &value](CLI::App& app) {
    bind_checked(app, flags, [&value](const std::string& text) { value = parse_duration(text); });
  });
  return *this;
}

Command& Command::choice(const std::string& flags, std::string& value, const std::vector<std::string>& choices,
                         const std::string& help) {
  impl_->parameters.push_back({Kind::kOption, flags, fmt::format("{}", fmt::join(choices, "|")), help});
  impl_->bindings.push_back([flags, &value, choices](CLI::App& app) {
    bind_checked(app, flags, [&value, choices](const std::string& text) {
      if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
        throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is none of {}", escaped(text), fmt::join(choices, ", ")));
      }
      value = text;
    });
  });
  return *this;
}

Command& Command::alias(const std::string& name) {
  impl_->aliases.push_back(name);
  return *this;
}

Command& Command::example(const std::string& command_line, const std::string& what) {
  impl_->examples.emplace_back(command_line, what);
  return *this;
}

Command& Command::note(const std::string& paragraph) {
  impl_->notes.push_back(paragraph);
  return *this;
}

Command& Command::exit_codes(const std::vector<int>& codes) {
  impl_->exit_codes = codes;
  return *this;
}

Command& Command::run(Run run) {
  impl_->run = std::move(run);
  return *this;
}

Command& Command::subcommand(const std::string& name, const std::string& purpose) {
  auto impl = std::make_unique<Impl>();
  impl->group = impl_->group;
  impl->path = impl_->path + " " + name;
  impl->name = name;
  impl->purpose = purpose;
  impl_->subcommands.push_back(std::make_unique<Command>(std::move(impl)));
  return *impl_->subcommands.back();
}

std::vector<std::string> split_names(const std::string& names) {
  std::vector<std::string> out;
  std::size_t begin = 0;
  while (begin <= names.size()) {
    const std::size_t comma = std::min(names.find(',', begin), names.size());
    out.push_back(names.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return out;
}

}  // namespace isr
