// logout: forgets the keys that login unlocked.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "host/keyring.h"

namespace isr {
namespace {

struct LogoutOptions {
  std::string repository;
  bool all = false;
};

int run_logout(CommandContext& context, const LogoutOptions& options) {
  std::size_t forgotten = 0;
  if (options.all) {
    forgotten = keyring_forget_all(kKeyringPrefix);
  } else {
    const RepositoryEntry entry = context.repository(options.repository);
    const auto info = pinned_repository(context.paths(), entry);
    if (info && keyring_forget(keyring_label(*info, entry.user))) forgotten = 1;
  }
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"forgotten", forgotten}});
  } else {
    context.out.line(forgotten == 0
                         ? "there was no login to forget"
                         : fmt::format("forgot the keys of {} login{}", forgotten, forgotten == 1 ? "" : "s"));
  }
  return 0;
}

}  // namespace

void register_logout(App& app) {
  auto options = std::make_shared<LogoutOptions>();
  app.command(Group::kEveryday, "logout", "forget the keys that login unlocked")
      .optional_argument("REPO", options->repository, "a configured repository; else the default one")
      .flag("--all", options->all, "of all repositories")
      .alias("deauth")
      .note("Running machines go on: their session has its own copy of the keys until it ends.")
      .example("isr logout", "of the default repository")
      .example("isr logout --all", "of all of them")
      .exit_codes({0, 10})
      .run([options](CommandContext& context) { return run_logout(context, *options); });
}

}  // namespace isr
