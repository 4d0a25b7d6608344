#include "account/account.h"

#include <keyutils.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "account/open_account.h"
#include "account/parcel_version.h"
#include "account/users.h"
#include "base/file.h"
#include "base/whole_file.h"
#include "host/keyring.h"
#include "session/checkout.h"
#include "support/account_place.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/lying_store.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

using namespace isr;
using test::kind_thrown;

namespace {

PasswordSource password(const std::string& text) {
  return [text] { return text; };
}

PasswordSource never_asked() {
  return []() -> std::string { throw Error(ErrorKind::kBug, "the password was asked for"); };
}

/// A repository with the user alice, and one host that uses it.
struct Place {
  TempDirectory directory;
  RepositoryEntry entry{"home", (directory.path() / "repository").string(), "alice"};
  SecretKey recovery = random_key();

  Place() {
    prepare_store_location(entry.url);
    const auto store = open_store(entry.url);
    init_repository(*store);
    create_user(host("here"), entry, *store, "correct horse", recovery, test::kFastScrypt);
  }
  Paths host(const std::string& name) const {
    Paths paths;
    paths.state = directory.path() / name / "state";
    paths.cache = directory.path() / name / "cache";
    fs::create_directories(directory.path() / name);
    return paths;
  }
  Account open(const std::string& host_name, const std::string& text = "correct horse", bool offline = false) const {
    OpenOptions options;
    options.offline = offline;
    options.use_keyring = false;
    return open_account(host(host_name), entry, password(text), options);
  }
  void change(const std::string& host_name, const KeyboxSecret& secret, const PasswordSource& next) const {
    change_password(host(host_name), entry, [&] { return secret; }, next, {});
  }
};

ParcelEntry parcel_called(const std::string& name) {
  ParcelEntry parcel;
  parcel.id = to_hex(test::random_bytes(16, 5));
  parcel.name = name;
  std::ranges::fill(parcel.epoch_keys[1].mutable_view(), 9);
  return parcel;
}

}  // namespace

TEST_CASE("an account opens with its password on any host, and with no other", "[account]") {
  const Place place;
  const Account here = place.open("here");
  const Account there = place.open("there");
  CHECK((here.identity.domain_secret == there.identity.domain_secret));
  CHECK_FALSE((here.host.device_key == there.host.device_key));
  CHECK(here.host.holder.host_id != there.host.holder.host_id);
  CHECK((place.open("here").host.device_key == here.host.device_key));
  CHECK(place.open("here").host.holder.host_id == here.host.holder.host_id);
  CHECK(kind_thrown([&] { place.open("here", "wrong horse"); }) == ErrorKind::kDenied);
}

TEST_CASE("a wrong password leaves the copy of the keybox that opens", "[account]") {
  const Place place;
  const Account account = place.open("here");
  const Bytes before = read_file(account.host.state_directory / "keybox", 65536);
  place.change("there", "correct horse", password("new password"));
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kDenied);
  CHECK((read_file(account.host.state_directory / "keybox", 65536) == before));
  CHECK_FALSE(kind_thrown([&] { place.open("here", "correct horse", true); }));  // offline, the old one
  CHECK_FALSE(kind_thrown([&] { place.open("here", "new password"); }));
  CHECK_FALSE((read_file(account.host.state_directory / "keybox", 65536) == before));
}

TEST_CASE("a host with a copy of the keybox still opens it when junk lies under the next number", "[account]") {
  const Place place;
  const Bytes junk = GENERATE(Bytes{}, test::random_bytes(100, 1), test::random_bytes(100'000, 2));
  open_store(place.entry.url)->put_new("users/alice/keybox/0000000000000002", junk);
  CHECK_FALSE(kind_thrown([&] { place.open("here"); }));
  CHECK(kind_thrown([&] { place.open("here", "wrong horse"); }) == ErrorKind::kDenied);
  CHECK_FALSE(kind_thrown([&] { place.open("here", "correct horse", true); }));  // the copy is still the good one
  CHECK(kind_thrown([&] { place.open("there"); }) == ErrorKind::kCorrupt);

  CHECK(kind_thrown([&] { place.change("there", "correct horse", password("new password")); }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown([&] { place.change("here", "wrong horse", never_asked()); }) == ErrorKind::kDenied);
  place.change("here", "correct horse", password("new password"));  // under the number behind the junk
  CHECK_FALSE(kind_thrown([&] { place.open("here", "new password"); }));
  CHECK_FALSE(kind_thrown([&] { place.open("there", "new password"); }));
}

TEST_CASE("the recovery key sets a new password, even on a new host", "[account]") {
  const Place place;
  const Key domain = place.open("here").identity.domain_secret;
  CHECK(kind_thrown([&] { place.change("there", Key{}, never_asked()); }) == ErrorKind::kDenied);
  CHECK(kind_thrown([&] { place.change("there", "wrong horse", never_asked()); }) == ErrorKind::kDenied);
  place.change("there", place.recovery, password("new password"));
  CHECK((place.open("there", "new password").identity.domain_secret == domain));
  CHECK((place.open("there", "new password", true).identity.domain_secret == domain));
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kDenied);
  place.change("here", place.recovery, password("third password"));
  CHECK((place.open("there", "third password").identity.domain_secret == domain));
}

TEST_CASE("one of two password changes at the same time is valid, and the other is refused", "[account]") {
  const Place place;
  const auto interrupted = [&] {
    place.change("there", "correct horse", password("theirs"));
    return std::string("ours");
  };
  CHECK(kind_thrown([&] { place.change("here", "correct horse", interrupted); }) == ErrorKind::kForked);
  CHECK_FALSE(kind_thrown([&] { place.open("here", "theirs"); }));
  CHECK(kind_thrown([&] { place.open("here", "ours"); }) == ErrorKind::kDenied);
}

TEST_CASE("a password cannot be changed while the repository is out of reach", "[account]") {
  const Place place;
  fs::rename(place.entry.url, place.entry.url + ".away");
  CHECK(kind_thrown([&] { place.change("here", "correct horse", never_asked()); }) == ErrorKind::kOffline);
}

TEST_CASE("an unknown user is denied without being asked for a password", "[account]") {
  Place place;
  place.entry.user = "bob";
  CHECK(kind_thrown([&] { open_account(place.host("here"), place.entry, never_asked(), {}); }) == ErrorKind::kDenied);
}

TEST_CASE("a second init of the same user changes nothing", "[account]") {
  const Place place;
  const auto store = open_store(place.entry.url);
  CHECK(kind_thrown([&] {
          create_user(place.host("there"), place.entry, *store, "other", random_key(), test::kFastScrypt);
        }) == ErrorKind::kUsage);
  CHECK(kind_thrown([&] { init_repository(*store); }) == ErrorKind::kUsage);
  CHECK_FALSE(kind_thrown([&] { place.open("here"); }));
}

TEST_CASE("an account opens offline when its repository is unplugged, if it was used here before", "[account]") {
  const Place place;
  {
    Account account = place.open("here");
    change_profile(account, [](Profile& profile) { profile.parcels.push_back(parcel_called("work")); });
  }
  fs::rename(place.entry.url, place.entry.url + ".away");
  Account account = place.open("here");
  CHECK(account.remote.offline());
  CHECK(read_profile(account).parcels.at(0).name == "work");
  CHECK(kind_thrown([&] { change_profile(account, [](Profile&) {}); }) == ErrorKind::kOffline);
  CHECK(kind_thrown([&] { account.chain("users/alice/profile"); }) == ErrorKind::kOffline);
  CHECK(kind_thrown([&] { account.remote.online("a test"); }) == ErrorKind::kOffline);
  CHECK(kind_thrown([&] { place.open("there"); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown([&] { place.open("there", "correct horse", true); }) == ErrorKind::kOffline);
}

TEST_CASE("another repository under the same address is refused until it is added again", "[account]") {
  const Place place;
  place.open("here");
  fs::remove_all(place.entry.url);
  prepare_store_location(place.entry.url);
  const auto store = open_store(place.entry.url);
  const RepositoryInfo info = init_repository(*store);
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kHistory);
  create_user(place.host("there"), place.entry, *store, "correct horse", random_key(), test::kFastScrypt);
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kHistory);
  pin_repository(place.host("here"), place.entry, info);
  CHECK_FALSE(kind_thrown([&] { place.open("here"); }));
}

TEST_CASE("a damaged device key is reported, not replaced", "[account]") {
  const Place place;
  const fs::path file = place.open("here").host.state_directory / "device-key";
  replace_file(file, test::flip_bit(read_file(file, 4096), 200));
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kCorrupt);
  CHECK(fs::exists(file));
}

TEST_CASE("a lost device key is reported, not replaced, when data is sealed under it", "[account]") {
  const Place place;
  const fs::path file = place.open("here").host.state_directory / "device-key";
  const Bytes key = read_file(file, 4096);
  fs::remove(file);
  CHECK(kind_thrown([&] { place.open("here"); }) == ErrorKind::kCorrupt);
  CHECK_FALSE(fs::exists(file));
  create_file(file, key);
  CHECK_FALSE(kind_thrown([&] { place.open("here"); }));
}

TEST_CASE("two hosts that change the profile at once lose neither change", "[account]") {
  const Place place;
  Account here = place.open("here");
  Account there = place.open("there");
  bool raced = false;
  change_profile(here, [&](Profile& profile) {
    if (!std::exchange(raced, true)) {
      change_profile(there, [](Profile& other) {
        other.parcels.push_back(parcel_called("theirs"));
        other.parcels.back().id[0] = 'f';
      });
    }
    profile.parcels.push_back(parcel_called("ours"));
    profile.parcels.back().id[0] = 'e';
  });
  const Profile profile = read_profile(there);
  REQUIRE(profile.parcels.size() == 2);
  CHECK(profile.parcels[0].name == "theirs");
  CHECK(profile.parcels[1].name == "ours");
}

TEST_CASE("keys in the keyring open the account without a password", "[account]") {
  const Place place;
  const Account account = place.open("here");
  const std::string label = keyring_label(account.remote.info, "alice");
  try {
    keyring_store(label, serialise_user_keys(account.identity), std::chrono::seconds(60));
  } catch (const Error& error) {
    WARN("no keyring in this environment: " << error.what());
    return;
  }
  CHECK_FALSE(kind_thrown([&] { open_account(place.host("here"), place.entry, never_asked(), {}); }));

  SECTION("and a process of another login session finds them") {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::keyctl_join_session_keyring(nullptr);
      ::_exit(keyring_find(label) ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  SECTION("until they are forgotten") {
    CHECK(keyring_forget(label));
    CHECK_FALSE(keyring_find(label));
    CHECK_FALSE(keyring_forget(label));
  }
  SECTION("until all of a kind are forgotten") {
    CHECK(keyring_forget_all(label) == 1);
    CHECK_FALSE(keyring_find(label));
  }
  keyring_forget(label);
}

TEST_CASE("a version is published, read again, and known offline", "[account]") {
  const Place place;
  Account account = place.open("here");
  const ParcelEntry parcel = parcel_called("work");
  CHECK(kind_thrown([&] { load_version(account, parcel); }) == ErrorKind::kNotFound);
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{1U << 20U, {}}});
  version.message = "first";
  const Bytes first = make_head(account, parcel, {}, version);
  REQUIRE(account.chain(parcel.chain()).publish(1, first));
  version.message = "second";
  REQUIRE(account.chain(parcel.chain()).publish(2, make_head(account, parcel, {2, head_hash(first)}, version)));
  const bool read = GENERATE(false, true);  // what was published only is known offline, too
  if (read) {
    CHECK(load_version(account, parcel).version.message == "second");
    CHECK(load_version(account, parcel, {1}).version.message == "first");
  }
  CHECK(kind_thrown([&] { load_version(account, parcel, {3}); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown([&] { load_version(account, parcel, {0}); }) == ErrorKind::kNotFound);
  account.remote.store = nullptr;
  CHECK(load_version(account, parcel).head.head.n == 2);
  CHECK(load_version(account, parcel, {2}).version.message == "second");
  CHECK(kind_thrown([&] { load_version(account, parcel, {1}); }) == ErrorKind::kOffline);

  ParcelEntry without_key = parcel;
  without_key.epoch_keys = {{2, Key{}}};
  CHECK(kind_thrown([&] { load_version(account, without_key); }) == ErrorKind::kDenied);
}

TEST_CASE("offline, no version older than the newest one that this host has seen is shown", "[account]") {
  const Place place;
  Account account = place.open("here");
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{1U << 20U, {}}});
  const ParcelEntry parcel = create_parcel(account, "work", version);
  const fs::path heads = account.host.state_directory / "heads";
  const fs::path yesterday = place.directory.path() / "yesterday";
  fs::copy(heads, yesterday);
  CHECK(roll_back(account, parcel, VersionChoice{1, {}}, {}) == 2);
  change_profile(account, [](Profile& profile) { profile.parcels.push_back(parcel_called("play")); });
  const BlobStorePtr store = account.remote.store;
  account.remote.store = nullptr;
  CHECK(load_version(account, parcel).head.head.n == 2);
  CHECK(read_profile(account).parcels.size() == 2);

  fs::remove_all(heads);
  fs::copy(yesterday, heads);
  CHECK(kind_thrown([&] { load_version(account, parcel); }) == ErrorKind::kOffline);
  CHECK(kind_thrown([&] { read_profile(account); }) == ErrorKind::kOffline);
  account.remote.store = store;
  load_version(account, parcel);
  account.remote.store = nullptr;
  CHECK(load_version(account, parcel).head.head.n == 2);
}

TEST_CASE("a head that is not in the history is never taken for an older version", "[account]") {
  const Place place;
  Account account = place.open("here");
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{1U << 20U, {}}});
  version.message = "first";
  const ParcelEntry parcel = create_parcel(account, "work", version);
  const Bytes first = account.remote.store->get(head_name(parcel.chain(), 1))->bytes;
  version.message = "second";
  REQUIRE(account.chain(parcel.chain()).publish(2, make_head(account, parcel, {2, head_hash(first)}, version)));
  version.message = "a fork of the first, signed by us";
  const Bytes fork = make_head(account, parcel, {}, version);
  const auto store = std::make_shared<test::LyingStore>(account.remote.store);
  account.remote.store = store;

  // Whichever of its answers is the fork: it is refused, or nobody asked a second time.
  const bool fork_first = GENERATE(true, false);
  store->lie(head_name(parcel.chain(), 1), fork_first ? std::deque{fork} : std::deque{first, fork});
  SECTION("when it is read") {
    std::string message = "refused";
    kind_thrown([&] { message = load_version(account, parcel, VersionChoice{1, {}}).version.message; });
    CHECK(message == (fork_first ? "refused" : "first"));
  }
  SECTION("when a rollback would sign it again") {
    kind_thrown([&] { roll_back(account, parcel, VersionChoice{1, {}}, {}); });
    store->lie(head_name(parcel.chain(), 1), {});
    const LoadedVersion newest = load_version(account, parcel);
    CHECK(newest.head.head.n == (fork_first ? 2 : 3));
    CHECK(newest.version.message != version.message);
  }
}

TEST_CASE("a failure to give back a lock does not hide the result of the operation", "[account]") {
  /// A line that breaks whenever a lock is written for the second time.
  class NoRelease : public test::FaultStore {
   public:
    using FaultStore::FaultStore;
    PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
      const bool lock = name.find("/locks/") != std::string_view::npos;
      if (lock && locks_++ > 0) throw Error(ErrorKind::kTransient, "the line broke");
      return FaultStore::put_new(name, bytes, stop);
    }

   private:
    int locks_ = 0;
  };
  const Place place;
  Account account = place.open("here");
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{1U << 20U, {}}});
  const ParcelEntry parcel = create_parcel(account, "work", version);
  account.remote.store = std::make_shared<NoRelease>(account.remote.store);
  SECTION("a rollback that was published") { CHECK(roll_back(account, parcel, {1}, {}) == 2); }
  SECTION("a checkout of a version that does not exist") {
    CHECK(kind_thrown([&] { check_out(account, parcel, LockMode::kAttended, {9}, {}); }) == ErrorKind::kNotFound);
  }
  CHECK(account.lock(parcel).show()->record.held);
}

TEST_CASE("a rollback that cannot be published gives the lock back", "[account]") {
  /// A line that breaks whenever a version is stored.
  class NoVersions : public test::FaultStore {
   public:
    using FaultStore::FaultStore;
    PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
      if (name.find("/heads/") != std::string_view::npos) throw Error(ErrorKind::kTransient, "the line broke");
      return FaultStore::put_new(name, bytes, stop);
    }
  };
  const Place place;
  Account account = place.open("here");
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{1U << 20U, {}}});
  const ParcelEntry parcel = create_parcel(account, "work", version);
  const BlobStorePtr store = std::exchange(account.remote.store, std::make_shared<NoVersions>(account.remote.store));
  CHECK(kind_thrown([&] { roll_back(account, parcel, {1}, {}); }) == ErrorKind::kTransient);
  account.remote.store = store;
  const auto ruling = account.lock(parcel).show();
  REQUIRE(ruling);
  CHECK_FALSE(ruling->record.held);
  CHECK(roll_back(account, parcel, {1}, {}) == 2);
}
