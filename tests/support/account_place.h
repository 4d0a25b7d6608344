#pragma once

#include "account/account.h"
#include "account/open_account.h"
#include "account/users.h"
#include "base/file.h"

namespace isr::test {

/// The cheapest that a keybox may have: most tests only want an account.
inline constexpr ScryptParams kFastScrypt{.n = 1U << 15U};

/// A repository in a directory, and alice's account in it.
struct AccountPlace {
  TempDirectory directory;
  RepositoryEntry entry{"home", (directory.path() / "repository").string(), "alice"};
  Account account;

  AccountPlace() {
    Paths paths;
    paths.state = directory.path() / "state";
    paths.cache = directory.path() / "cache";
    prepare_store_location(entry.url);
    const auto store = open_store(entry.url);
    init_repository(*store);
    create_user(paths, entry, *store, "correct horse", random_key(), kFastScrypt);
    OpenOptions options;
    options.use_keyring = false;
    account = open_account(
        paths, entry, [] { return std::string("correct horse"); }, options);
  }
};

}  // namespace isr::test
