# The service on each client with a card. docs/larger-engines.md explains it.
#
#   nomad var put nomad/jobs/cyber-inference api_keys=KEY admin_password=PASSWORD
#   nomad job run deploy/nomad.hcl
#
# It registers with Consul. In the configuration of each client: the driver docker, NVIDIA's device plugin,
# max_kill_timeout = "60s" (Nomad's own limit is 30 s), and
#
#   host_volume "cyber-inference" { path = "/var/lib/cyber-inference" }
#
# a folder with the folders config, data and models, which belong to user 1000.
job "cyber-inference" {
  datacenters = ["*"]
  type        = "system"

  group "box" {
    network {
      mode = "host"
      port "https" {
        static = 8337
      }
    }

    volume "cyber-inference" {
      type      = "host"
      source    = "cyber-inference"
      read_only = false
    }

    # Made once; a pair that is there stays, and with it the trust of the other boxes.
    task "certificate" {
      driver = "docker"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image        = "your-registry/cyber-inference-tui:nvidia"
        args         = ["tls", "make"]
        network_mode = "host"
      }

      env {
        XDG_CONFIG_HOME            = "/cyber-inference/config"
        CYBER_INFERENCE_DATA_DIR   = "/cyber-inference/data"
        CYBER_INFERENCE_MODELS_DIR = "/cyber-inference/models"
      }

      volume_mount {
        volume      = "cyber-inference"
        destination = "/cyber-inference"
      }
    }

    task "service" {
      driver = "docker"

      # shutdown_timeout (30 s) for answers and stop_timeout (10 s) for models, and some to spare.
      kill_timeout = "60s"

      config {
        image        = "your-registry/cyber-inference-tui:nvidia"
        network_mode = "host"
        ports        = ["https"]
        cap_drop     = ["all"]
      }

      env {
        HOME                       = "/cyber-inference/data"
        XDG_CONFIG_HOME            = "/cyber-inference/config"
        CYBER_INFERENCE_DATA_DIR   = "/cyber-inference/data"
        CYBER_INFERENCE_MODELS_DIR = "/cyber-inference/models"
      }

      template {
        destination = "secrets/keys.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/cyber-inference" }}
          CYBER_INFERENCE_API_KEYS={{ .api_keys.Value | toJSON }}
          CYBER_INFERENCE_ADMIN_PASSWORD={{ .admin_password.Value | toJSON }}
          {{ end }}
        EOT
      }

      service {
        name     = "cyber-inference"
        port     = "https"
        provider = "consul"

        # Ready if it passes. Nomad starts the task again after six failures.
        check {
          type            = "http"
          protocol        = "https"
          tls_skip_verify = true
          path            = "/health"
          interval        = "10s"
          timeout         = "5s"

          check_restart {
            limit = 6
            grace = "60s"
          }
        }
      }

      resources {
        cpu    = 4000
        memory = 16384

        device "nvidia/gpu" {
          count = 1
        }
      }

      volume_mount {
        volume      = "cyber-inference"
        destination = "/cyber-inference"
      }
    }
  }
}
