// repo init, add, rm, ls, info, check.
#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/crypto.h"
#include "base/file.h"
#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/password.h"

namespace isr {
namespace {

struct InitOptions {
  std::string url;
  std::string user;
  std::string name = "home";
  std::string recovery_file;
};

struct AddOptions {
  std::string name;
  std::string url;
  std::string user;
  std::string recovery_file;
  std::string new_password_file;
};

/// This user's login name, as far as a repository can have it.
std::string default_user(const std::string& given) {
  if (!given.empty()) return given;
  const passwd* entry = ::getpwuid(::getuid());  // NOLINT(concurrency-mt-unsafe): one thread asks
  const std::string name = entry == nullptr ? "" : entry->pw_name;
  try {
    check_user_name(name);
  } catch (const Error&) {
    throw Error(ErrorKind::kUsage, "your login name cannot be a user's name in a repository", {"say --user NAME"});
  }
  return name;
}

void refuse_taken_name(CommandContext& context, const std::string& name) {
  check_repository_name(name);
  if (const auto taken = context.config().repository(name)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a repository called {} exists already in the configuration: {}", name, taken->url),
                {"choose another name with --name, or: isr repo rm " + name});
  }
}

/// A new repository; or one that an interrupted init made, in which nobody is yet.
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

/// Makes the user. The recovery key is in a file before there is anything that it opens, so that neither a
/// full disk nor a kill loses it; the file's own name appears when all is done. True when the file has it.
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
  context.out.line("Without the password and without this key your data is lost: nobody else can open it.");
}

int run_init(CommandContext& context, const InitOptions& options) {
  const RepositoryEntry entry{options.name, canonical_store_url(options.url), default_user(options.user)};
  check_user_name(entry.user);
  refuse_taken_name(context, entry.name);
  if (!options.recovery_file.empty() && fs::exists(fs::symlink_status(options.recovery_file))) {
    throw Error(ErrorKind::kUsage, fmt::format("{} exists already", options.recovery_file),
                {"name a new file for the recovery key"});
  }
  // First, so that a command that has no password leaves nothing behind.
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

/// Proves that this user can open the repository; by the recovery key, which then gives a new password.
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
    throw Error(ErrorKind::kUsage, "--new-password-file goes with --recovery-file",
                {"the password that counts now comes from --password-file; isr passwd changes it"});
  }
  const RepositoryEntry entry{options.name, canonical_store_url(options.url), default_user(options.user)};
  check_user_name(entry.user);
  refuse_taken_name(context, entry.name);
  const RepositoryInfo info = read_repository_info(*open_store(entry.url));
  // Adding a repository says that this is the one that is meant, from now on.
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

int run_rm(CommandContext& context, const std::string& name) {
  const RepositoryEntry entry = context.repository(name);
  context.config().remove_repository(entry.name);
  context.out.done(
      fmt::format("{} is no longer configured; what is stored at {} and on this host stays", entry.name, entry.url),
      {{"repository", entry.name}, {"url", entry.url}});
  return 0;
}

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

/// An address that this host has used before is taken for what it was then.
BlobStorePtr open_configured(CommandContext& context, const RepositoryEntry& entry) {
  StoreOptions options;
  options.is_known = pinned_repository(context.paths(), entry).has_value();
  return open_store(entry.url, options);
}

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

void register_init(Command& repo) {
  auto options = std::make_shared<InitOptions>();
  repo.subcommand("init", "make a new repository, with you as its user")
      .argument("URL", options->url, "a new or empty directory, or the URL of an isr serve on one")
      .option("--user", options->user, "USER", "your name there; else your login name")
      .option("--name", options->name, "NAME", "what to call it on this host (home)")
      .option("--recovery-file", options->recovery_file, "FILE", "write the recovery key there instead of showing it")
      .note(
          "Who has the recovery key can set a new password: isr passwd --recovery, or on a host that has never\n"
          "used the repository, isr repo add --recovery-file FILE. So keep it where the password is not.")
      .example("isr repo init /srv/isr", "asks for a new password, prints the recovery key once")
      .example("isr repo init http://127.0.0.1:7460/ --user alice --recovery-file key.txt", "on a served directory")
      .exit_codes({0, 2, 12, 13, 18, 19})
      .run([options](CommandContext& context) { return run_init(context, *options); });
}

void register_add(Command& repo) {
  auto options = std::make_shared<AddOptions>();
  repo.subcommand("add", "use a repository that exists, on this host too")
      .argument("NAME", options->name, "what to call it here, e.g. home")
      .argument("URL", options->url, "a directory or http(s) URL")
      .option("--user", options->user, "USER", "your name there; else your login name")
      .option("--recovery-file", options->recovery_file, "FILE", "the password is lost: FILE has the recovery key")
      .option("--new-password-file", options->new_password_file, "FILE", "with --recovery-file: the new password")
      .note(
          "With the recovery key (FILE may be - for stdin) a new password is asked for, and takes the place of the\n"
          "lost one on all your hosts. The recovery key stays valid.")
      .example("isr repo add home http://isr.example.org/ --user alice", "asks for the password, to see that it opens")
      .example("isr repo add disk /media/me/DISK/isr", "a repository on a portable disk")
      .example("isr repo add home URL --user alice --recovery-file key.txt", "the password is lost; asks for a new one")
      .exit_codes({0, 2, 10, 12, 13, 14, 17})
      .run([options](CommandContext& context) { return run_add(context, *options); });
}

}  // namespace

void register_repo(App& app) {
  Command& repo = app.command(Group::kAdministration, "repo", "the repositories that this host uses");
  repo.example("isr repo ls", "what is configured").example("isr repo check home", "is it safe to write to?");
  repo.exit_codes({0, 2, 10});
  register_init(repo);
  register_add(repo);
  auto name = std::make_shared<std::string>();
  repo.subcommand("rm", "take a repository out of the configuration; deletes nothing else")
      .argument("NAME", *name, "a configured repository")
      .example("isr repo rm disk", "what is stored there stays")
      .example("isr repo rm home && isr repo add home URL", "after it moved")
      .exit_codes({0, 2, 10})
      .run([name](CommandContext& context) { return run_rm(context, *name); });
  repo.subcommand("ls", "list the configured repositories")
      .example("isr repo ls", "as a table")
      .example("isr repo ls --json", "for scripts")
      .exit_codes({0, 2})
      .run([](CommandContext& context) { return run_ls(context); });
  repo.subcommand("info", "what a repository says of itself")
      .optional_argument("NAME", *name, "a configured repository; else the default one")
      .example("isr repo info", "of the default one")
      .example("isr repo info disk --json", "for scripts")
      .exit_codes({0, 10, 13})
      .run([name](CommandContext& context) { return run_info(context, *name); });
  repo.subcommand("check", "race writers against a store: would it lose updates?")
      .optional_argument("NAME|URL", *name, "a configured repository, or any URL; else the default one")
      .note("Writes 20 small blobs below probe/, eight writers each, and removes them as far as the store allows.")
      .example("isr repo check", "of the default one")
      .example("isr repo check http://127.0.0.1:7460/", "before anything is stored there")
      .exit_codes({0, 10, 13, 19})
      .run([name](CommandContext& context) { return run_check(context, *name); });
}

}  // namespace isr
