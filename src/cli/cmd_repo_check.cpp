// repo check: races writers against a store.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/repo_entry.h"

namespace isr {
namespace {

int run_check(CommandContext& context, const std::string& name_or_url) {
  const auto entry = name_or_url.empty()
                         ? context.repository()
                         : context.config().repository(name_or_url).value_or(RepositoryEntry{"", name_or_url, ""});
  const BlobStorePtr store = open_configured(context, entry);
  race_store(*store);
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"url", entry.url}, {"ok", true}});
  } else {
    context.out.line(fmt::format("{}: of 8 writers that raced for each of 20 names exactly one won: safe to use",
                                 store->describe()));
  }
  return 0;
}

}  // namespace

void register_repo_check(Command& repo) {
  auto name = std::make_shared<std::string>();
  repo.subcommand("check", "race writers against a store: would it lose updates?")
      .optional_argument("NAME|URL", *name, "a configured repository, or any URL; else the default one")
      .note("Writes 20 small blobs below probe/, eight writers each, and removes them as far as the store allows.")
      .example("isr repo check", "the default repository")
      .example("isr repo check http://127.0.0.1:7460/", "before you store anything there")
      .exit_codes({0, 10, 13, 19})
      .run([name](CommandContext& context) { return run_check(context, *name); });
}

}  // namespace isr
