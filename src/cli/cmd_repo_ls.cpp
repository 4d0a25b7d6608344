// repo ls: the configured repositories.
#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

int run_ls(CommandContext& context) {
  const std::string chosen = context.config().default_repository();
  const auto entries = context.config().repositories();
  if (context.out.json()) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& entry : entries) {
      list.push_back(
          {{"name", entry.name}, {"url", entry.url}, {"user", entry.user}, {"default", entry.name == chosen}});
    }
    context.out.document({{"schema", 1}, {"repositories", list}});
    return 0;
  }
  if (entries.empty()) {
    context.out.note("no repository is configured; isr repo init URL makes one, isr repo add uses one");
    return 0;
  }
  std::vector<std::vector<std::string>> rows{{"NAME", "USER", "DEFAULT", "URL"}};
  for (const auto& entry : entries) {
    rows.push_back({entry.name, entry.user, entry.name == chosen ? "yes" : "-", entry.url});
  }
  context.out.table(rows, "");
  return 0;
}

}  // namespace

void register_repo_ls(Command& repo) {
  repo.subcommand("ls", "list the configured repositories")
      .example("isr repo ls", "as a table")
      .example("isr repo ls --json", "for scripts")
      .exit_codes({0, 2})
      .run([](CommandContext& context) { return run_ls(context); });
}

}  // namespace isr
