#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "account/account.h"
#include "base/progress.h"

namespace isr {

struct CheckFinding {
  std::string where;    ///< "version 3, disk, chunk 17"
  std::string problem;  ///< names the object
};
struct CheckOptions {
  bool deep = false;  ///< fetch, verify and decrypt every object; else presence and the pages only
  bool newest_only = false;
};
struct CheckReport {
  std::uint64_t versions = 0, pages = 0, chunks = 0;
  std::vector<CheckFinding> findings;
};
/// Walks every version of a parcel: heads form one chain, signatures verify, every
/// reachable object is there and, with deep, is what it should be. The cache is not asked.
CheckReport check_parcel(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
                         const ProgressFn& progress);

}  // namespace isr
