// passwd: changes the password; the keys stay the same.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "account/users.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/password.h"

namespace isr {
namespace {

struct PasswdOptions {
  std::string repository;
  std::string new_password_file;
  std::string recovery_file;
  bool recovery = false;
};

int run_passwd(CommandContext& context, const PasswdOptions& options) {
  const RepositoryEntry entry = context.repository(options.repository);
  const auto current = [&]() -> KeyboxSecret {
    if (options.recovery || !options.recovery_file.empty()) return recovery_key(context, options.recovery_file);
    return password_source(context, fmt::format("Password of {} at {}: ", entry.user, entry.name))();
  };
  const auto next = [&] {
    return replacing_password(context, options.new_password_file,
                              fmt::format("New password of {} at {}: ", entry.user, entry.name));
  };
  OpenOptions open;
  open.offline = context.offline();
  change_password(context.paths(), entry, current, next, open);
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"repository", entry.name}, {"user", entry.user}});
    return 0;
  }
  context.out.line(fmt::format("{} has a new password at {}", entry.user, entry.name));
  const std::string file = context.flags.password_file.empty() ? context.config().get("password.file") : "";
  if (!file.empty() && file != "-") {
    context.out.note(fmt::format("{} must hold the new password from now on", file));
  }
  return 0;
}

}  // namespace

void register_passwd(App& app) {
  auto options = std::make_shared<PasswdOptions>();
  app.command(Group::kAdministration, "passwd", "change your password, also when it is lost")
      .optional_argument("REPO", options->repository, "a configured repository; else the default one")
      .option("--new-password-file", options->new_password_file, "FILE", "read the new password from FILE")
      .flag("--recovery", options->recovery, "for a lost password: ask for the recovery key instead")
      .option("--recovery-file", options->recovery_file, "FILE", "for a lost password: read the recovery key from FILE")
      .note(
          "Asks for the password that counts now (--password-file as everywhere) and twice for the new one. Your\n"
          "keys and data stay as they are, and so does the recovery key. Other hosts need the new password as soon\n"
          "as they reach the repository; one that is offline goes on with the old one until then.\n"
          "Of two changes at the same time one counts; the other ends with 17 and changes nothing.")
      .note(
          "Whoever kept a copy of the repository or of a host's state can still try passwords on that copy: a\n"
          "change does not help against someone who has a copy and learns the old password.")
      .note("On a host that never used the repository: isr repo add NAME URL --user USER --recovery-file FILE.")
      .example("isr passwd", "asks for the old password, then for the new one")
      .example("isr passwd home --recovery", "asks for the recovery key that isr repo init printed")
      .example("isr passwd --password-file old --new-password-file new", "for scripts")
      .exit_codes({0, 2, 10, 12, 13, 14, 17, 19})
      .run([options](CommandContext& context) { return run_passwd(context, *options); });
}

}  // namespace isr
