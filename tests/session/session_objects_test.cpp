#include "session/session_objects.h"

#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

TEST_CASE("load() finds an object in the settled store or in the cache, and checks it", "[session]") {
  test::CheckedOut place;
  SessionObjects objects(place.account, place.state_file().parent_path());
  const SealedObject sealed = seal_chunk(test::random_bytes(kChunkSize, 5), place.account.identity.domain_secret);
  const Cid cid = sealed.ref.cid;
  CHECK_FALSE(objects.is_here(cid));
  CHECK((test::kind_thrown([&] { objects.load(cid); }) == ErrorKind::kCorrupt));
  SECTION("settled") { objects.settled().put(cid, sealed.bytes); }
  SECTION("in the cache") { objects.cache().put(cid, sealed.bytes); }
  CHECK(objects.is_here(cid));
  CHECK((objects.load(cid) == sealed.bytes));
}

TEST_CASE("a local reader finds settled and cached objects, and asks no repository", "[session]") {
  test::CheckedOut place;
  const PatchedTree base = load_version(place.account, place.parcel).version.find("disk")->content;
  fs::remove_all(place.account.host.paths.cache);
  SessionObjects objects(place.account, place.state_file().parent_path());
  Bytes bytes(kChunkSize);
  Image local("disk", base, objects.local_reader(), nullptr);
  CHECK((test::kind_thrown([&] { local.read(0, bytes); }) == ErrorKind::kOffline));
  CHECK(objects.stats().repository_fetches == 0);
  objects.make_image("disk", std::make_shared<const BaseContent>(base), nullptr)->read(0, bytes);
  CHECK(objects.stats().repository_fetches > 0);
  Bytes again(kChunkSize);
  Image("disk", base, objects.local_reader(), nullptr).read(0, again);
  CHECK((again == bytes));
}
