# What every bucket is, whatever it is for.

provider "aws" {
  region                      = "eu-central-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name             = "fab"
  key_arn          = "arn:aws:kms:eu-central-1:111122223333:key/one"
  protected        = true
  retention_days   = 365
  conditional_keys = ["data/latest/*", "data/watched/*"]
}

run "protected" {
  command = plan

  module {
    source = "./modules/bucket"
  }

  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "Old versions are not kept."
  }

  assert {
    condition = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).bucket_key_enabled && one(
      one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default
    ).kms_master_key_id == var.key_arn
    error_message = "Objects are not encrypted by the environment's key, or each asks for it."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
      aws_s3_bucket_ownership_controls.this.rule[0].object_ownership == "BucketOwnerEnforced",
    ])
    error_message = "The bucket is not private."
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.this.rule :
      try(rule.abort_incomplete_multipart_upload[0].days_after_initiation, rule.noncurrent_version_expiration[0].noncurrent_days)
    ] == [7, 365] && alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.status == "Enabled"])
    error_message = "Uploads that were broken off, or replaced versions, stay for ever."
  }

  assert {
    condition = [for statement in jsondecode(aws_s3_bucket_policy.this.policy).Statement : [statement.Sid, statement.Effect]] == [
      ["OnlyByTls", "Deny"], ["PointersOnlyUnderACondition", "Deny"], ["VersionsStay", "Deny"],
    ]
    error_message = "The bucket's policy is not the one that is documented."
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Condition == { Bool = { "aws:SecureTransport" = "false" } }
    error_message = "The bucket can be asked without TLS."
  }

  assert {
    condition = jsondecode(aws_s3_bucket_policy.this.policy).Statement[1].Condition == {
      Null = { "s3:if-none-match" = "true", "s3:if-match" = "true" }
    } && jsondecode(aws_s3_bucket_policy.this.policy).Statement[1].Resource == ["arn:aws:s3:::fab/data/watched/*", "arn:aws:s3:::fab/data/latest/*"]
    error_message = "Pointers can be overwritten blindly, or what is no pointer cannot be written."
  }

  assert {
    condition     = !contains(jsondecode(aws_s3_bucket_policy.this.policy).Statement[2].Action, "s3:DeleteObject") && !aws_s3_bucket.this.force_destroy
    error_message = "wafer deletes objects; only their versions stay, and so does a bucket with content."
  }
}

run "can_be_destroyed" {
  command = plan

  module {
    source = "./modules/bucket"
  }

  variables {
    protected        = false
    conditional_keys = []
  }

  assert {
    condition     = aws_s3_bucket.this.force_destroy && !strcontains(aws_s3_bucket_policy.this.policy, "VersionsStay")
    error_message = "A bucket that is not protected could not be destroyed."
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.this.policy).Statement[*].Sid == ["OnlyByTls"]
    error_message = "A bucket without pointers asks for conditions."
  }
}
