// config get, set, show.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

struct ConfigOptions {
  std::string key;
  std::string value;
  bool origin = false;
};

int run_get(CommandContext& context, const ConfigOptions& options) {
  const std::string value = context.config().get(options.key);
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"key", options.key}, {"value", value}});
  } else {
    context.out.line(value);
  }
  return 0;
}

int run_set(CommandContext& context, const ConfigOptions& options) {
  context.config().set(options.key, options.value);
  for (const Setting& setting : context.config().settings()) {
    const bool outranked = setting.key == options.key && setting.value != options.value;
    if (outranked) context.out.warn(fmt::format("{} is set to another value by: {}", setting.key, setting.origin));
  }
  return 0;
}

int run_show(CommandContext& context, const ConfigOptions& options) {
  const auto settings = context.config().settings();
  if (context.out.json()) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& s : settings) list.push_back({{"key", s.key}, {"value", s.value}, {"origin", s.origin}});
    context.out.document({{"schema", 1}, {"settings", list}});
    return 0;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& s : settings) {
    std::vector<std::string> row{s.key, s.value.empty() ? "-" : printable(s.value)};
    if (options.origin) row.push_back(s.origin);
    rows.push_back(std::move(row));
  }
  context.out.table(rows, "");
  return 0;
}

}  // namespace

void register_config(App& app) {
  auto options = std::make_shared<ConfigOptions>();
  Command& config = app.command(Group::kAdministration, "config", "settings and where they come from");
  config.note(
      "Flags go before environment variables, those before your config.toml, that before\n"
      "/etc/isr/config.toml, that before what is built in.");
  config.example("isr config show --origin", "every setting and where its value comes from");
  config.example("isr config set cache.limit 50G", "a larger cache").exit_codes({0, 2});
  config.subcommand("get", "print one setting")
      .argument("KEY", options->key, "e.g. cache.limit")
      .example("isr config get cache.limit", "20G")
      .example("ISR_CACHE_LIMIT=1G isr config get cache.limit", "1G: the environment wins")
      .exit_codes({0, 2})
      .run([options](CommandContext& context) { return run_get(context, *options); });
  config.subcommand("set", "change one setting in your config.toml")
      .argument("KEY", options->key, "e.g. cache.limit")
      .text_argument("VALUE", options->value, "the new value")
      .example("isr config set default_repo disk", "what commands use unless told otherwise")
      .example("isr config set read.unreachable fail", "the guest gets an error instead of waiting")
      .exit_codes({0, 2, 18})
      .run([options](CommandContext& context) { return run_set(context, *options); });
  config.subcommand("show", "print all settings")
      .flag("--origin", options->origin, "also print where each value comes from")
      .example("isr config show", "keys and values")
      .example("isr config show --origin", "and where they come from")
      .exit_codes({0, 2})
      .run([options](CommandContext& context) { return run_show(context, *options); });
}

}  // namespace isr
