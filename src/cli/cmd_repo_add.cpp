// repo add: adds an existing repository to the configuration of this host.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "account/users.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/password.h"
#include "cli/repo_entry.h"

namespace isr {
namespace {

struct AddOptions {
  std::string name;
  std::string url;
  std::string user;
  std::string recovery_file;
  std::string new_password_file;
};

/// Proves that this user can open the repository, with the password, or with the recovery key, which then sets a new
/// password.
void prove_access(CommandContext& context, const RepositoryEntry& entry, const AddOptions& options) {
  OpenOptions open;
  open.use_keyring = false;
  if (options.recovery_file.empty()) {
    open_account(context.paths(), entry,
                 password_source(context, fmt::format("Password of {} at {}: ", entry.user, entry.url)), open);
    return;
  }
  const UserKeys keys = change_password(
      context.paths(), entry, [&] { return recovery_key(context, options.recovery_file); },
      [&] {
        return replacing_password(context, options.new_password_file,
                                  fmt::format("New password of {} at {}: ", entry.user, entry.url));
      },
      open);
  open_account_with_keys(context.paths(), entry, keys, open);
}

int run_add(CommandContext& context, const AddOptions& options) {
  if (!options.new_password_file.empty() && options.recovery_file.empty()) {
    throw Error(
        ErrorKind::kUsage, "--new-password-file needs --recovery-file",
        {"without --recovery-file the password is not changed: give it with --password-file; isr passwd changes it"});
  }
  const RepositoryEntry entry{options.name, canonical_store_url(options.url), default_user(options.user)};
  check_user_name(entry.user);
  refuse_taken_repository_name(context, entry.name);
  const RepositoryInfo info = read_repository_info(*open_store(entry.url));
  // By adding a repository the user says that this is the right one from now on.
  const auto before = pinned_repository(context.paths(), entry);
  pin_repository(context.paths(), entry, info);
  try {
    prove_access(context, entry, options);
  } catch (const Error&) {
    if (before) pin_repository(context.paths(), entry, *before);
    throw;
  }
  context.config().add_repository(entry);
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"repository", entry.name}, {"url", entry.url}, {"user", entry.user}});
  } else {
    context.out.line(fmt::format("{} is {}; you are {} there", entry.name, entry.url, entry.user));
  }
  return 0;
}

}  // namespace

void register_repo_add(Command& repo) {
  auto options = std::make_shared<AddOptions>();
  repo.subcommand("add", "use an existing repository on this host")
      .argument("NAME", options->name, "its name on this host, e.g. home")
      .argument("URL", options->url, "a directory or http(s) URL")
      .option("--user", options->user, "USER", "your name there; else your login name")
      .option("--recovery-file", options->recovery_file, "FILE", "for a lost password: read the recovery key from FILE")
      .option("--new-password-file", options->new_password_file, "FILE",
              "with --recovery-file: read the new password from FILE")
      .note(
          "With the recovery key (FILE may be - for stdin) a new password is asked for, and takes the place of the\n"
          "lost one on all your hosts. The recovery key stays valid.")
      .example("isr repo add home http://isr.example.org/ --user alice",
               "asks for the password, to check that it is right")
      .example("isr repo add disk /media/me/DISK/isr", "a repository on a portable disk")
      .example("isr repo add home URL --user alice --recovery-file key.txt", "for a lost password; asks for a new one")
      .exit_codes({0, 2, 10, 12, 13, 14, 17})
      .run([options](CommandContext& context) { return run_add(context, *options); });
}

}  // namespace isr
