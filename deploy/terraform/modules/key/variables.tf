variable "name" {
  description = "Name of the environment, and of the key's alias."
  type        = string
}
