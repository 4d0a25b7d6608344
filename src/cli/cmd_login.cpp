// login: keeps the keys of an account in the kernel's keyring for a while.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/password.h"
#include "host/keyring.h"
#include "session/held_lock.h"

namespace isr {
namespace {

constexpr std::chrono::hours kDefaultTtl{12};
constexpr std::chrono::hours kMaxTtl{24 * 30};

struct LoginOptions {
  std::string repository;
  std::optional<std::chrono::seconds> ttl;
};

int run_login(CommandContext& context, const LoginOptions& options) {
  const auto ttl = options.ttl.value_or(kDefaultTtl);
  if (ttl.count() < 1 || ttl > kMaxTtl) throw Error(ErrorKind::kUsage, "--ttl: must be from 1 second to 30 days");
  const RepositoryEntry entry = context.repository(options.repository);
  OpenOptions open;
  open.offline = context.offline();
  open.use_keyring = false;  // keys that are already there do not prove the password
  const Account account =
      open_account(context.paths(), entry,
                   password_source(context, fmt::format("Password of {} at {}: ", entry.user, entry.name)), open);
  give_back_left_locks(account);
  keyring_store(keyring_label(account.remote.info, entry.user), serialise_user_keys(account.identity), ttl);
  const WallTime until = wall_now() + ttl;
  if (context.out.json()) {
    context.out.document({{"schema", 1},
                          {"repository", entry.name},
                          {"user", entry.user},
                          {"until", to_rfc3339(until)},
                          {"offline", account.remote.offline()}});
  } else {
    context.out.line(fmt::format("{} is logged in to {} until {}{}", entry.user, entry.name, to_rfc3339(until),
                                 account.remote.offline() ? ", offline" : ""));
  }
  return 0;
}

}  // namespace

void register_login(App& app) {
  auto options = std::make_shared<LoginOptions>();
  app.command(Group::kEveryday, "login", "unlock your keys for this session")
      .optional_argument("REPO", options->repository, "a configured repository; else the default one")
      .duration("--ttl", options->ttl, "forget them after this time (12h)")
      .alias("auth")
      .note(
          "The keys go into the kernel's keyring of your user, never to a disk. It works offline too, once\n"
          "you have logged in on this host while the repository could be reached.")
      .example("isr login", "asks for the password; for 12 hours other commands do not")
      .example("isr login home --ttl 30m --password-file -", "the password comes from stdin")
      .exit_codes({0, 10, 12, 13, 14})
      .run([options](CommandContext& context) { return run_login(context, *options); });
}

}  // namespace isr
