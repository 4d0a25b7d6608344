// repo init: makes a repository, with this user in it.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/users.h"
#include "base/crypto.h"
#include "base/file.h"
#include "base/whole_file.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/password.h"
#include "cli/repo_entry.h"

namespace isr {
namespace {

struct InitOptions {
  std::string url;
  std::string user;
  std::string name = "home";
  std::string recovery_file;
};

/// Makes a new repository, or uses one without users that an interrupted init has left.
void make_repository(BlobStore& store, const RepositoryEntry& entry) {
  try {
    init_repository(store);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    const auto users = store.list("users/");
    if (users && users->empty()) return;
    throw Error(ErrorKind::kUsage, error.what(), {fmt::format("isr repo add {} {}    uses it", entry.name, entry.url)});
  }
}

/// Makes the user. The recovery key is in a file before there is anything to open with it, so that neither a full disk
/// nor a kill loses it. The file gets its final name when all is done. Returns true when the file has the key.
bool make_user(CommandContext& context, const RepositoryEntry& entry, BlobStore& store, std::string_view password,
               const Key& recovery, const std::string& file) {
  if (file.empty()) {
    create_user(context.paths(), entry, store, password, recovery);
    return false;
  }
  const Bytes text = to_bytes(as_bytes(format_recovery_key(recovery) + "\n"));
  const fs::path partial = fs::absolute(file + ".partial");
  replace_file(partial, text);
  try {
    create_user(context.paths(), entry, store, password, recovery);
  } catch (const Error&) {
    remove_if_exists(partial);
    throw;
  }
  const bool kept = create_file(fs::absolute(file), text) == CreateResult::kCreated;
  remove_if_exists(partial);
  return kept;
}

void print_new_repository(CommandContext& context, const RepositoryEntry& entry, const std::string& recovery,
                          const std::string& file) {
  if (context.out.json()) {
    nlohmann::json answer{{"schema", 1}, {"repository", entry.name}, {"url", entry.url}, {"user", entry.user}};
    answer[file.empty() ? "recovery_key" : "recovery_file"] = file.empty() ? recovery : file;
    context.out.document(answer);
    return;
  }
  context.out.line(fmt::format("{} is a new repository at {}; you are {} there", entry.name, entry.url, entry.user));
  if (!file.empty()) {
    context.out.line(fmt::format("The recovery key is in {}; it opens everything, so keep it elsewhere.", file));
    return;
  }
  context.out.line(
      fmt::format("Recovery key (shown once; keep it on paper, it opens everything):\n\n  {}\n\n", recovery));
  context.out.line("Without the password and without this key your data is lost: there is no other way to open it.");
}

int run_init(CommandContext& context, const InitOptions& options) {
  const RepositoryEntry entry{options.name, canonical_store_url(options.url), default_user(options.user)};
  check_user_name(entry.user);
  refuse_taken_repository_name(context, entry.name);
  if (!options.recovery_file.empty() && fs::exists(fs::symlink_status(options.recovery_file))) {
    throw Error(ErrorKind::kUsage, fmt::format("{} exists already", options.recovery_file),
                {"name a new file for the recovery key"});
  }
  // Ask first, so that a command without a password leaves nothing behind.
  const SecretText password = new_password(context, fmt::format("New password of {} at {}: ", entry.user, entry.name));
  prepare_store_location(entry.url);
  const BlobStorePtr store = open_store(entry.url);
  make_repository(*store, entry);
  const SecretKey recovery = random_key();
  const bool kept = make_user(context, entry, *store, password, recovery, options.recovery_file);
  context.config().add_repository(entry);
  print_new_repository(context, entry, format_recovery_key(recovery), kept ? options.recovery_file : "");
  return 0;
}

}  // namespace

void register_repo_init(Command& repo) {
  auto options = std::make_shared<InitOptions>();
  repo.subcommand("init", "make a new repository, with you as its user")
      .argument("URL", options->url, "a new or empty directory, or the URL of an isr serve on one")
      .option("--user", options->user, "USER", "your name there; else your login name")
      .option("--name", options->name, "NAME", "its name on this host (home)")
      .option("--recovery-file", options->recovery_file, "FILE", "write the recovery key there instead of showing it")
      .note(
          "Who has the recovery key can set a new password: isr passwd --recovery, or on a host that has never\n"
          "used the repository, isr repo add --recovery-file FILE. So keep it where the password is not.")
      .example("isr repo init /srv/isr", "asks for a new password, prints the recovery key once")
      .example("isr repo init http://127.0.0.1:7460/ --user alice --recovery-file key.txt", "on a served directory")
      .exit_codes({0, 2, 12, 13, 18, 19})
      .run([options](CommandContext& context) { return run_init(context, *options); });
}

}  // namespace isr
