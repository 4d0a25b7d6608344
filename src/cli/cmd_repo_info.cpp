// repo info: shows facts about a repository.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/repo_entry.h"

namespace isr {
namespace {

int run_info(CommandContext& context, const std::string& name) {
  const RepositoryEntry entry = context.repository(name);
  const auto began = std::chrono::steady_clock::now();
  const BlobStorePtr store = open_configured(context, entry);
  const RepositoryInfo info = read_repository_info(*store);
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began);
  if (context.out.json()) {
    context.out.document({{"schema", 1},
                          {"name", entry.name},
                          {"url", entry.url},
                          {"user", entry.user},
                          {"id", info.id},
                          {"chunk_size", info.chunk_size},
                          {"writable", store->writable()},
                          {"answered_ms", took.count()}});
    return 0;
  }
  context.out.table({{"name", entry.name},
                     {"url", entry.url},
                     {"user", entry.user},
                     {"id", info.id},
                     {"chunks", format_size(info.chunk_size)},
                     {"writable", store->writable() ? "yes" : "no"},
                     {"answered", fmt::format("in {} ms", took.count())}},
                    "");
  return 0;
}

}  // namespace

void register_repo_info(Command& repo) {
  auto name = std::make_shared<std::string>();
  repo.subcommand("info", "show facts about a repository")
      .optional_argument("NAME", *name, "a configured repository; else the default one")
      .example("isr repo info", "the default repository")
      .example("isr repo info disk --json", "for scripts")
      .exit_codes({0, 10, 13})
      .run([name](CommandContext& context) { return run_info(context, *name); });
}

}  // namespace isr
