// repo rm: takes a repository out of the configuration.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

int run_rm(CommandContext& context, const std::string& name) {
  const RepositoryEntry entry = context.repository(name);
  context.config().remove_repository(entry.name);
  context.out.done(
      fmt::format("{} is no longer configured; the data at {} and on this host stays", entry.name, entry.url),
      {{"repository", entry.name}, {"url", entry.url}});
  return 0;
}

}  // namespace

void register_repo_rm(Command& repo) {
  auto name = std::make_shared<std::string>();
  repo.subcommand("rm", "take a repository out of the configuration; deletes nothing else")
      .argument("NAME", *name, "a configured repository")
      .example("isr repo rm disk", "the data there stays")
      .example("isr repo rm home && isr repo add home URL", "after it moved")
      .exit_codes({0, 2, 10})
      .run([name](CommandContext& context) { return run_rm(context, *name); });
}

}  // namespace isr
