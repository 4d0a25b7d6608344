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

LockRequest wanting(char hold, LockMode mode = LockMode::kAttended) {
  return {.hold = std::string(32, hold), .mode = mode, .base = {.chain = kParcel, .n = 41, .hash = {}}};
}

struct Setup {
  explicit Setup(Listing listing = Listing::kYes) : store(std::make_shared<MemoryStore>(listing)) {}
  std::shared_ptr<MemoryStore> store;
  ParcelLock desk{store, kParcel, owner(), kDesk};
  ParcelLock laptop{store, kParcel, owner(), kLaptop};
};

LockRecord example() {
  LockRecord record;
  record.s = 7;
  record.r = 2;
  record.hold = std::string(31, 'b') + "1";
  record.held = true;
  record.host = kDesk.host;
  record.host_id = kDesk.host_id;
  record.base = {.chain = kParcel, .n = 41, .hash = sha256(text_bytes("head"))};
  record.since = *from_rfc3339("2026-11-23T04:06:20Z");
  record.time = *from_rfc3339("2026-11-23T04:10:20Z");
  record.note = "taken over: \"lost\" \n\x7f \xc3\xa9";
  return record;
}

ErrorKind decode_kind(ByteView blob) {
  return kind_thrown_by([&] { decode_lock_record(blob, owner().public_key, kParcel, 7, 2); });
}

TEST_CASE("a lock record is read as it was written, byte for byte as ever", "[repository]") {
  const Bytes blob = encode_lock_record(example(), kParcel, owner());
  CHECK((blob == read_file(std::string(ISR_GOLDEN_DIR) + "/lock/v1", 8192)));
  const LockRecord read = decode_lock_record(blob, owner().public_key, kParcel, 7, 2);
  CHECK(read.s == 7);
  CHECK(read.r == 2);
  CHECK(read.hold == example().hold);
  CHECK(read.held);
  CHECK(read.host == "desk-42");
  CHECK(read.host_id == kDesk.host_id);
  CHECK(read.mode == LockMode::kAttended);
  CHECK(read.lease == seconds(600));
  CHECK(read.base.chain == kParcel);
  CHECK(read.base.n == 41);
  CHECK(read.base.hash == example().base.hash);
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
      {"\"r\":2", "\"r\":3"},
      {"\"hold\":\"bb", "\"hold\":\"b"},
      {"\"base_hash\":\"", "\"base_hash\":\"00"},
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
  LockRecord mine = s.desk.acquire(wanting('1'));
  CHECK(mine.s == 1);
  CHECK(s.desk.show()->ours);
  CHECK_FALSE(s.laptop.show()->ours);
  CHECK(s.desk.show()->is_hold(mine.hold));

  s.store->set_age(seconds(190));
  try {
    s.laptop.acquire(wanting('2'));
    FAIL_CHECK("a held lock was taken");
  } catch (const LockedError& error) {
    CHECK(error.kind() == ErrorKind::kLocked);
    CHECK(error.ruling().record.host == "desk-42");
    CHECK(error.ruling().age == seconds(190));
    CHECK_THAT(error.what(), Catch::Contains("in use on desk-42") && Catch::Contains("last seen 3 minutes ago"));
    CHECK(error.hints().size() == 3);
  }
  s.store->set_age(seconds(0));

  const LockRecord first = mine;
  mine = s.desk.renew(mine);
  CHECK(mine.s == 1);
  CHECK(mine.r == 1);
  CHECK((mine.since == first.since));
  CHECK(s.desk.show()->is_hold(first.hold));
  CHECK(s.desk.keep(wanting('1')).r == 1);
  s.desk.release(mine.hold);
  CHECK_FALSE(s.laptop.show()->record.held);
  CHECK_FALSE(s.desk.show()->is_hold(mine.hold));
  s.desk.release(mine.hold);  // nothing left to do
  CHECK(s.laptop.acquire(wanting('2')).s == 3);
}

TEST_CASE("two holds of one host are distinct", "[repository]") {
  Setup s;
  const LockRecord first = s.desk.acquire(wanting('1'));
  const LockRecord second = s.desk.acquire(wanting('2', LockMode::kCheckout));
  CHECK(kind_thrown_by([&] { s.desk.renew(first); }) == ErrorKind::kLocked);
  s.desk.release(first.hold);
  CHECK(s.desk.show()->is_hold(second.hold));
  CHECK(s.desk.keep(wanting('2')).s == second.s);
  CHECK(s.desk.keep(wanting('3')).s == second.s + 1);
}

TEST_CASE("a lease ends by the store's clock and a checkout never, and acquire() takes neither from another host",
          "[repository]") {
  Setup s;
  const LockMode mode = GENERATE(LockMode::kAttended, LockMode::kCheckout);
  const LockRecord mine = s.desk.acquire(wanting('1', mode));
  s.store->set_age(seconds(600));
  CHECK_FALSE(s.laptop.show()->expired);
  s.store->set_age(std::nullopt);
  CHECK_FALSE(s.laptop.show()->expired);
  s.store->set_age(seconds(601));
  CHECK(s.laptop.show()->expired == (mode == LockMode::kAttended));
  CHECK(kind_thrown_by([&] { s.laptop.acquire(wanting('2')); }) == ErrorKind::kLocked);
  if (mode == LockMode::kCheckout) return;
  SECTION("a holder that was asleep continues when its lock was not taken") { CHECK(s.desk.renew(mine).r == 1); }
  SECTION("a holder that was asleep finds that its lock was taken") {
    s.laptop.steal(wanting('2'), "its lease had run out");
    s.store->set_age(seconds(0));
    CHECK(kind_thrown_by([&] { s.desk.renew(mine); }) == ErrorKind::kLocked);
    CHECK(kind_thrown_by([&] { s.desk.keep(wanting('1')); }) == ErrorKind::kLocked);
    s.desk.release(mine.hold);
    CHECK(s.laptop.show()->ours);
  }
  SECTION("a renewal at the same time as the take-over is not valid") {
    s.laptop.steal(wanting('2'), "its lease had run out");
    LockRecord late = mine;
    late.r = 1;
    s.store->put_new(sequence_name(sequence_name(kParcel + "/renewals", mine.s), 1),
                     encode_lock_record(late, kParcel, owner()));
    CHECK(s.laptop.show()->ours);
  }
}

TEST_CASE("stealing and breaking work whoever holds the lock, and the holder finds out", "[repository]") {
  Setup s;
  const LockRecord mine = s.desk.acquire(wanting('1', LockMode::kCheckout));
  SECTION("stolen") {
    const LockRecord stolen = s.laptop.steal(wanting('2'), "desk-42 is lost");
    CHECK(s.desk.show()->record.note == "desk-42 is lost");
    CHECK(s.laptop.show()->is_hold(stolen.hold));
    CHECK(kind_thrown_by([&] { s.desk.renew(mine); }) == ErrorKind::kLocked);
    SECTION("and stolen back: the first hold is over nevertheless") {
      s.desk.steal(wanting('3', LockMode::kCheckout), "no, it is not");
      CHECK_FALSE(s.desk.show()->is_hold(mine.hold));
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
    SECTION("and taken by another") { CHECK(s.laptop.acquire(wanting('2')).s == 3); }
    SECTION("and kept by its previous holder") { CHECK(s.desk.keep(wanting('1')).s == 3); }
  }
  SECTION("a lock that never existed need not be broken") {
    Setup fresh;
    fresh.desk.break_lock("why not");
    CHECK(fresh.store->blobs().empty());
  }
}

TEST_CASE("one of eight hosts that want a lock at once gets it", "[repository]") {
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
            lock.acquire(wanting(digit[0]));
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

TEST_CASE("a renewal comes after one whose answer was lost", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<test::FaultStore>(memory);
  ParcelLock lock(line, kParcel, owner(), kDesk);
  const LockRecord mine = lock.acquire(wanting('1'));
  line->script({test::Fault::kAfter});
  CHECK(kind_thrown_by([&] { lock.renew(mine); }) == ErrorKind::kTransient);
  CHECK(lock.renew(mine).r == lock.show()->record.r);
}

TEST_CASE("a holder that knows only its hold can still renew it", "[repository]") {
  Setup s;
  LockRecord first = s.desk.acquire(wanting('1'));
  LockRecord newest = first;
  first.note = "of another time";  // else it would be the first renewal once more
  for (int renewals = 0; renewals < 5; ++renewals) newest = s.desk.renew(newest);
  CHECK(s.desk.renew(first).r == newest.r + 1);
  LockRecord hold_only;
  hold_only.hold = first.hold;
  CHECK(s.desk.renew(hold_only).r == newest.r + 2);
}

TEST_CASE("a renewal takes three requests, and does not slow down later holds", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<test::FaultStore>(memory);
  ParcelLock lock(line, kParcel, owner(), kDesk);
  LockRecord mine = lock.acquire(wanting('1'));
  for (int renewals = 0; renewals < 20; ++renewals) {
    const std::size_t before = line->calls();
    mine = lock.renew(mine);
    CHECK(line->calls() == before + 3);  // puts, reads back, looks whether another has taken it over
  }
  CHECK(lock.show()->record.r == 20);
  lock.release(mine.hold);
  const std::size_t gets = memory->gets();
  CHECK_FALSE(lock.show()->record.held);
  CHECK(memory->gets() == gets + 1);
  CHECK(memory->list(kParcel + "/locks/")->size() == 2);
}

TEST_CASE("a lock that the store does not keep is not taken", "[repository]") {
  class Forgetful : public MemoryStore {
   public:
    PutResult put_new(std::string_view, ByteView, std::stop_token) override { return answer; }
    PutResult answer = PutResult::kCreated;
  };
  const auto store = std::make_shared<Forgetful>();
  store->answer = GENERATE(PutResult::kCreated, PutResult::kExists);
  ParcelLock lock(store, kParcel, owner(), kDesk);
  CHECK(kind_thrown_by([&] { lock.acquire(wanting('1')); }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown_by([&] { lock.steal(wanting('1'), "needed"); }) == ErrorKind::kCorrupt);
}

TEST_CASE("an unreadable record uses up its number and has no other effect", "[repository]") {
  Setup s;
  LockRecord mine = s.desk.acquire(wanting('1'));
  const std::uint64_t at = GENERATE(std::uint64_t{2}, std::uint64_t{1'000'002}, kMaxSequence);
  LockRecord foreign = example();
  foreign.s = at;
  foreign.r = 0;
  const Bytes unsigned_record = encode_lock_record(foreign, kParcel, signing_key_from_seed({.value = {9}}));
  const std::vector<Bytes> bad = {Bytes{}, text_bytes("junk"), unsigned_record};
  s.store->put_new(lock_name(at), bad[GENERATE(0U, 1U, 2U)]);
  const std::uint64_t next = at == 2 ? 3 : 2;

  CHECK(s.desk.show()->is_hold(mine.hold));
  CHECK(kind_thrown_by([&] { s.laptop.acquire(wanting('2')); }) == ErrorKind::kLocked);
  mine = s.desk.renew(mine);
  CHECK(mine.r == 1);
  s.desk.renew(mine);
  SECTION("released and taken") {
    s.desk.release(mine.hold);
    CHECK_FALSE(s.laptop.show()->record.held);
    CHECK(s.laptop.acquire(wanting('2')).s == next + 1);
  }
  SECTION("stolen") {
    CHECK(s.laptop.steal(wanting('2'), "needed").s == next);
    CHECK(s.laptop.show()->ours);
    CHECK(kind_thrown_by([&] { s.desk.renew(mine); }) == ErrorKind::kLocked);
  }
  SECTION("broken") {
    s.laptop.break_lock("needed");
    CHECK(s.laptop.acquire(wanting('2')).s == next + 1);
  }
}

TEST_CASE("a parcel with an unreadable first record can still be locked", "[repository]") {
  Setup s(GENERATE(Listing::kYes, Listing::kNo));
  s.store->put_new(lock_name(1), text_bytes("junk"));
  CHECK_FALSE(s.desk.show().has_value());
  CHECK(s.desk.acquire(wanting('1')).s == 2);
}

TEST_CASE("many unreadable records are reported, and can be broken", "[repository]") {
  Setup s(GENERATE(Listing::kYes, Listing::kNo));
  s.desk.acquire(wanting('1'));
  for (std::uint64_t n = 2; n < 40; ++n) s.store->put_new(lock_name(n), text_bytes("junk"));
  try {
    s.laptop.show();
    FAIL_CHECK("was accepted");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK_THAT(error.what(), Catch::Contains("lock records cannot be read"));
    CHECK_FALSE(error.hints().empty());
  }
  s.laptop.break_lock("junk");
  CHECK_FALSE(s.laptop.show()->record.held);
  CHECK(s.laptop.acquire(wanting('2')).s == 41);
}

TEST_CASE("an unreadable renewal has no effect", "[repository]") {
  Setup s;
  LockRecord mine = s.desk.renew(s.desk.acquire(wanting('1')));
  s.store->put_new(sequence_name(sequence_name(kParcel + "/renewals", 1), 2), text_bytes("junk"));
  CHECK(s.desk.show()->record.r == 1);
  mine = s.desk.renew(mine);
  CHECK(mine.r == 3);
  CHECK(s.laptop.show()->record.r == 3);
}

TEST_CASE("records a million numbers ahead are valid, and the last number does not overflow", "[repository]") {
  Setup s;
  const LockRecord mine = s.desk.acquire(wanting('1'));
  LockRecord ahead = example();
  ahead.host = kLaptop.host;
  ahead.host_id = kLaptop.host_id;
  ahead.s = GENERATE(std::uint64_t{1'000'001}, kMaxSequence);
  ahead.r = 0;
  s.store->put_new(lock_name(ahead.s), encode_lock_record(ahead, kParcel, owner()));
  CHECK_FALSE(s.desk.show()->is_hold(mine.hold));
  if (ahead.s == kMaxSequence) {
    CHECK(kind_thrown_by([&] { s.desk.steal(wanting('1'), "x"); }) == ErrorKind::kCorrupt);
  } else {
    CHECK(s.desk.steal(wanting('1'), "x").s == 1'000'002);
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

TEST_CASE("ages are written in the largest suitable unit", "[repository]") {
  CHECK(describe_age(seconds(2)) == "just now");
  CHECK(describe_age(seconds(90)) == "90 seconds ago");
  CHECK(describe_age(seconds(190)) == "3 minutes ago");
  CHECK(describe_age(seconds(7300)) == "2 hours ago");
  CHECK(describe_age(seconds(5 * 86400)) == "5 days ago");
}

/// Says of every list that it has too many names.
class LongLists : public MemoryStore {
 public:
  std::optional<ListPage> list_page(std::string_view, std::string_view, std::stop_token) override {
    throw Error(ErrorKind::kUnsupported, "too many names");
  }
};

TEST_CASE("a lock with too many records to list still works", "[repository]") {
  const auto store = std::make_shared<LongLists>();
  ParcelLock desk{store, kParcel, owner(), kDesk};
  ParcelLock laptop{store, kParcel, owner(), kLaptop};
  LockRecord held = desk.acquire(wanting('1'));
  for (int i = 0; i < 40; ++i) held = desk.renew(held);
  REQUIRE(laptop.show());
  CHECK(laptop.show()->record.r == 40);
  laptop.break_lock("lost");
  CHECK_FALSE(desk.show()->record.held);
  laptop.acquire(wanting('2'));
  CHECK(laptop.show()->ours);
}

}  // namespace
}  // namespace isr
