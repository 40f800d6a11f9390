variable "name" {
  description = "Name of the policy."
  type        = string
}

variable "bucket" {
  description = "The bucket."
  type        = string
}

variable "prefix" {
  description = "Prefix below which all may be read, written and deleted."
  type        = string
}

variable "key_arn" {
  description = "Key that encrypts the bucket's objects."
  type        = string
}
