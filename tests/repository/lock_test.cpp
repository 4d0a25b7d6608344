#include "repository/lock.h"

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"
#include "support/fault_store.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using std::chrono::seconds;
using test::kind_thrown_by;
using test::MemoryStore;
using test::text_bytes;
using Listing = MemoryStore::Listing;

const std::string kParcel = "parcels/4f";
const LockIdentity kDesk{"desk-42", "000102030405060708090a0b0c0d0e0f"};
const LockIdentity kLaptop{"laptop", "f00102030405060708090a0b0c0d0e0f"};

const SigningKey& owner() {
  static const SigningKey key = signing_key_from_seed({.value = {1, 2, 3}});
  return key;
}

std::string lock_name(std::uint64_t s) { return sequence_name(kParcel + "/locks", s); }

struct Setup {
  explicit Setup(Listing listing = Listing::kYes) : store(std::make_shared<MemoryStore>(listing)) {}
  std::shared_ptr<MemoryStore> store;
  ParcelLock desk{store, kParcel, owner(), kDesk};
  ParcelLock laptop{store, kParcel, owner(), kLaptop};
};

LockRecord example() {
  LockRecord record;
  record.s = 7;
  record.held = true;
  record.host = kDesk.host;
  record.host_id = kDesk.host_id;
  record.base = 41;
  record.since = *from_rfc3339("2026-11-23T04:06:20Z");
  record.time = *from_rfc3339("2026-11-23T04:10:20Z");
  record.note = "taken over: \"lost\" \n\x7f \xc3\xa9";
  return record;
}

ErrorKind decode_kind(ByteView blob) {
  return kind_thrown_by([&] { decode_lock_record(blob, owner().public_key, kParcel, 7); });
}

TEST_CASE("a lock record is read as it was written, byte for byte as ever", "[repository]") {
  const Bytes blob = encode_lock_record(example(), kParcel, owner());
  CHECK((blob == read_file(std::string(ISR_GOLDEN_DIR) + "/lock/v1", 8192)));
  const LockRecord read = decode_lock_record(blob, owner().public_key, kParcel, 7);
  CHECK(read.s == 7);
  CHECK(read.held);
  CHECK(read.host == "desk-42");
  CHECK(read.host_id == kDesk.host_id);
  CHECK(read.mode == LockMode::kAttended);
  CHECK(read.lease == seconds(600));
  CHECK(read.base == 41);
  CHECK((read.since == example().since));
  CHECK((read.time == example().time));
  CHECK(read.note == example().note);
}

TEST_CASE("a lock record is refused when damaged, unsigned, misplaced or absurd", "[repository]") {
  const Bytes blob = encode_lock_record(example(), kParcel, owner());
  for (std::size_t byte = 0; byte < blob.size(); ++byte) {
    CHECK(decode_kind(test::flip_bit(blob, byte * 8 + byte % 8)) == ErrorKind::kCorrupt);
    CHECK(decode_kind(ByteView(blob).first(byte)) == ErrorKind::kCorrupt);
  }
  CHECK(decode_kind(encode_lock_record(example(), kParcel, signing_key_from_seed({.value = {9}}))) ==
        ErrorKind::kCorrupt);
  CHECK(decode_kind(encode_lock_record(example(), "parcels/4e", owner())) == ErrorKind::kCorrupt);
  LockRecord moved = example();
  moved.s = 8;
  CHECK(decode_kind(encode_lock_record(moved, kParcel, owner())) == ErrorKind::kCorrupt);

  const std::string line(as_text(blob).substr(0, as_text(blob).find('\n')));
  CHECK(decode_kind(sign_text("isr1/head", line, owner())) == ErrorKind::kCorrupt);
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"isr1-lock", "isr2-lock"},
      {"\"s\":7", "\"s\":0"},
      {"\"s\":7", "\"s\":18446744073709551615"},
      {"\"held\":true", "\"held\":1"},
      {"\"lease\":600", "\"lease\":0"},
      {"\"lease\":600", "\"lease\":99999999999"},
      {"attended", "forever"},
      {"\"host_id\":\"00", "\"host_id\":\"zz"},
      {"\"host_id\":\"00", "\"host_id\":\""},
      {"2026-11-23T04:10:20Z", "9999-01-01T00:00:00Z"},
      {"desk-42", "../x"},
      {"{", "{ "},
      {"\"note\"", "\"nota\""},
      {"\\u007f", "\x7f"},
  };
  for (const auto& [from, to] : changes) {
    std::string changed = line;
    changed.replace(changed.find(from), from.size(), to);
    INFO(from << " -> " << to);
    CHECK(decode_kind(sign_text("isr1/lock", changed, owner())) == ErrorKind::kCorrupt);
  }
  LockRecord unreadable = example();
  unreadable.note = "\xff";
  CHECK(kind_thrown_by([&] { encode_lock_record(unreadable, kParcel, owner()); }) == ErrorKind::kUsage);
}

TEST_CASE("a lock goes from free to held to released, and others are told who has it", "[repository]") {
  Setup s(GENERATE(Listing::kYes, Listing::kNo));
  CHECK_FALSE(s.desk.show().has_value());
  LockRecord mine = s.desk.acquire(LockMode::kAttended, 41);
  CHECK(mine.s == 1);
  CHECK(s.desk.show()->ours);
  CHECK_FALSE(s.laptop.show()->ours);
  CHECK_NOTHROW(s.desk.check(mine));

  s.store->set_age(seconds(190));
  try {
    s.laptop.acquire(LockMode::kAttended, 41);
    FAIL_CHECK("a held lock was taken");
  } catch (const LockedError& error) {
    CHECK(error.kind() == ErrorKind::kLocked);
    CHECK(error.record().host == "desk-42");
    CHECK(error.age() == seconds(190));
    CHECK_THAT(error.what(), Catch::Contains("in use on desk-42") && Catch::Contains("last seen 3 minutes ago"));
    CHECK(error.hints().size() == 3);
  }
  s.store->set_age(seconds(0));

  const LockRecord first = mine;
  mine = s.desk.renew(mine);
  CHECK(mine.s == 2);
  CHECK((mine.since == first.since));
  CHECK_NOTHROW(s.desk.check(first));  // a renewal by another thread does not end the hold
  CHECK(s.desk.acquire(LockMode::kCheckout, 42).s == 3);
  s.desk.release(mine);
  CHECK_FALSE(s.laptop.show()->record.held);
  CHECK(kind_thrown_by([&] { s.desk.check(mine); }) == ErrorKind::kLocked);
  s.desk.release(mine);  // nothing left to do
  CHECK(s.laptop.acquire(LockMode::kAttended, 42).s == 5);
}

TEST_CASE("a lease ends by the store's clock, a checkout never", "[repository]") {
  Setup s;
  const LockMode mode = GENERATE(LockMode::kAttended, LockMode::kCheckout);
  const LockRecord mine = s.desk.acquire(mode, 1);
  s.store->set_age(seconds(600));
  CHECK_FALSE(s.laptop.show()->expired);
  CHECK(kind_thrown_by([&] { s.laptop.acquire(LockMode::kAttended, 1); }) == ErrorKind::kLocked);
  s.store->set_age(std::nullopt);
  CHECK(kind_thrown_by([&] { s.laptop.acquire(LockMode::kAttended, 1); }) == ErrorKind::kLocked);
  s.store->set_age(seconds(601));
  CHECK(s.laptop.show()->expired == (mode == LockMode::kAttended));
  if (mode == LockMode::kCheckout) {
    CHECK(kind_thrown_by([&] { s.laptop.acquire(LockMode::kAttended, 1); }) == ErrorKind::kLocked);
    return;
  }
  SECTION("a holder that was asleep, and that nobody missed, goes on") { CHECK(s.desk.renew(mine).s == 2); }
  SECTION("a holder that was asleep finds itself replaced") {
    s.laptop.acquire(LockMode::kAttended, 1);
    s.store->set_age(seconds(0));
    CHECK(kind_thrown_by([&] { s.desk.check(mine); }) == ErrorKind::kLocked);
    CHECK(kind_thrown_by([&] { s.desk.renew(mine); }) == ErrorKind::kLocked);
    s.desk.release(mine);
    CHECK(s.laptop.show()->ours);
  }
}

TEST_CASE("stealing and breaking work whoever holds the lock, and the holder learns it", "[repository]") {
  Setup s;
  const LockRecord mine = s.desk.acquire(LockMode::kCheckout, 1);
  SECTION("stolen") {
    const LockRecord stolen = s.laptop.steal(LockMode::kAttended, 1, "desk-42 is lost");
    CHECK(s.desk.show()->record.note == "desk-42 is lost");
    CHECK_NOTHROW(s.laptop.check(stolen));
    CHECK(kind_thrown_by([&] { s.desk.check(mine); }) == ErrorKind::kLocked);
    CHECK(kind_thrown_by([&] { s.desk.renew(mine); }) == ErrorKind::kLocked);
    SECTION("and stolen back: the first hold is over all the same") {
      const LockRecord again = s.desk.steal(LockMode::kCheckout, 1, "no, it is not");
      CHECK_NOTHROW(s.desk.check(again));
    }
  }
  SECTION("broken") {
    s.laptop.break_lock("desk-42 is lost");
    CHECK_FALSE(s.laptop.show()->record.held);
    try {
      s.desk.renew(mine);
      FAIL_CHECK("renewed a broken lock");
    } catch (const LockedError& error) {
      CHECK_THAT(error.what(), Catch::Contains("laptop released it") && Catch::Contains("desk-42 is lost"));
    }
    CHECK(s.laptop.acquire(LockMode::kAttended, 1).s == 3);
  }
  SECTION("a lock that never was need not be broken") {
    Setup fresh;
    fresh.desk.break_lock("why not");
    CHECK(fresh.store->blobs().empty());
  }
}

TEST_CASE("of eight hosts that want a lock at once one gets it", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> winners{0};
    std::atomic<int> locked{0};
    {
      std::vector<std::jthread> takers;
      for (int i = 0; i < 8; ++i) {
        takers.emplace_back([&, i] {
          const std::string digit(1, static_cast<char>('0' + i));
          ParcelLock lock(store, kParcel, owner(), {"host-" + digit, std::string(31, 'a') + digit});
          try {
            lock.acquire(LockMode::kAttended, 1);
            ++winners;
          } catch (const LockedError&) {
            ++locked;
          }
        });
      }
    }
    CHECK(winners == 1);
    CHECK(locked == 7);
    ParcelLock(store, kParcel, owner(), kDesk).break_lock("next round");
  }
}

TEST_CASE("a renewal goes behind one whose answer was lost", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<test::FaultStore>(memory);
  ParcelLock lock(line, kParcel, owner(), kDesk);
  const LockRecord mine = lock.acquire(LockMode::kAttended, 1);
  line->script({test::Fault::kAfter});
  CHECK(kind_thrown_by([&] { lock.renew(mine); }) == ErrorKind::kTransient);
  CHECK(lock.renew(mine).s == lock.show()->record.s);
}

TEST_CASE("a holder that knows only its first record renews it all the same", "[repository]") {
  Setup s;
  LockRecord first = s.desk.acquire(LockMode::kAttended, 1);
  LockRecord newest = first;
  first.note = "of another time";  // else it would be the second record once more
  for (int renewals = 0; renewals < 5; ++renewals) newest = s.desk.renew(newest);
  CHECK(s.desk.renew(first).s == newest.s + 1);
}

TEST_CASE("a renewal asks the store once, however many records there are", "[repository]") {
  const auto line = std::make_shared<test::FaultStore>(std::make_shared<MemoryStore>());
  ParcelLock lock(line, kParcel, owner(), kDesk);
  LockRecord mine = lock.acquire(LockMode::kAttended, 1);
  for (int renewals = 0; renewals < 20; ++renewals) {
    const std::size_t before = line->calls();
    mine = lock.renew(mine);
    CHECK(line->calls() == before + 1);
  }
  CHECK(lock.show()->record.s == 21);
}

TEST_CASE("a record that nobody can read is named, and can be written over", "[repository]") {
  Setup s;
  s.desk.acquire(LockMode::kAttended, 1);
  const std::uint64_t at = GENERATE(2ULL, 1'000'002ULL);
  LockRecord foreign = example();
  foreign.s = at;
  const Bytes unsigned_record = encode_lock_record(foreign, kParcel, signing_key_from_seed({.value = {9}}));
  const std::vector<Bytes> bad = {Bytes{}, text_bytes("junk"), unsigned_record};
  s.store->put_new(lock_name(at), bad[GENERATE(0U, 1U, 2U)]);
  for (const auto& call : std::vector<std::function<void()>>{[&] { s.laptop.show(); },
                                                             [&] { s.laptop.acquire(LockMode::kAttended, 1); }}) {
    try {
      call();
      FAIL_CHECK("was accepted");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kCorrupt);
      CHECK_THAT(error.what(), Catch::Contains("lock record " + std::to_string(at)));
      CHECK_FALSE(error.hints().empty());
    }
  }
  SECTION("by stealing") {
    CHECK(s.laptop.steal(LockMode::kAttended, 1, "broken record").s == at + 1);
    CHECK(s.laptop.show()->ours);
  }
  SECTION("by breaking") {
    s.laptop.break_lock("broken record");
    CHECK(s.laptop.acquire(LockMode::kAttended, 1).s == at + 2);
  }
}

TEST_CASE("records a million numbers ahead rule, and the last number does not overflow", "[repository]") {
  Setup s;
  const LockRecord mine = s.desk.acquire(LockMode::kAttended, 1);
  LockRecord ahead = example();
  ahead.host = kLaptop.host;
  ahead.host_id = kLaptop.host_id;
  ahead.s = GENERATE(std::uint64_t{1'000'001}, kMaxSequence);
  s.store->put_new(lock_name(ahead.s), encode_lock_record(ahead, kParcel, owner()));
  CHECK(kind_thrown_by([&] { s.desk.check(mine); }) == ErrorKind::kLocked);
  if (ahead.s == kMaxSequence) {
    CHECK(kind_thrown_by([&] { s.desk.steal(LockMode::kAttended, 1, "x"); }) == ErrorKind::kCorrupt);
  } else {
    CHECK(s.desk.steal(LockMode::kAttended, 1, "x").s == 1'000'002);
  }
}

TEST_CASE("the newest of a sequence is found with and without a list", "[repository]") {
  for (const std::uint64_t count : {0, 1, 2, 3, 7, 8, 9, 100}) {
    MemoryStore listing;
    MemoryStore mute(Listing::kNo);
    for (std::uint64_t n = 1; n <= count; ++n) {
      listing.put_new(lock_name(n), {});
      mute.put_new(lock_name(n), {});
    }
    CHECK(newest_in_sequence(listing, kParcel + "/locks") == count);
    CHECK(newest_in_sequence(mute, kParcel + "/locks") == count);
  }
}

TEST_CASE("ages are told as a person would", "[repository]") {
  CHECK(describe_age(seconds(2)) == "just now");
  CHECK(describe_age(seconds(90)) == "90 seconds ago");
  CHECK(describe_age(seconds(190)) == "3 minutes ago");
  CHECK(describe_age(seconds(7300)) == "2 hours ago");
  CHECK(describe_age(seconds(5 * 86400)) == "5 days ago");
}

}  // namespace
}  // namespace isr
