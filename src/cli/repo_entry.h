#pragma once

#include <string>

#include "cli/context.h"
#include "repository/store_scheme.h"

/// Shared by the commands of `isr repo`.
namespace isr {

/// `given`, else this user's login name; Error{kUsage} when a repository cannot have that.
std::string default_user(const std::string& given);
/// Error{kUsage} when the configuration has a repository of that name, or no repository can be called so.
void refuse_taken_repository_name(CommandContext& context, const std::string& name);
/// The store at the entry's address. An address that this host has used before is taken for what it was then.
BlobStorePtr open_configured(CommandContext& context, const RepositoryEntry& entry);

}  // namespace isr
